"""Many small outputs become one object, and each is read by its manifest alone."""

from __future__ import annotations

from pathlib import Path

from launch_worker.logs.opening import stored_output
from launch_worker.logs.packing import SmallLog, delete_pack, new_name, pack, pack_again, read_pack
from launch_worker.logs.stored import StoredLogs
from launch_worker.model.log_pieces import Gap
from launch_worker.store.logs import LogChunk


def log_of(number: int, *chunks: LogChunk) -> SmallLog:
    return SmallLog(f"{number:015}", 1, number + 1, chunks)


def test_a_thousand_small_outputs_are_one_object_and_each_is_read_alone(tmp_path: Path) -> None:
    stored = StoredLogs(f"file://{tmp_path}")
    logs = [
        log_of(
            number,
            LogChunk("1-0", 0, b"first of %d\n" % number, 0),
            LogChunk("2-0", 11 + len(str(number)), b"last\n", 1),
        )
        for number in range(1000)
    ]
    name = new_name()
    manifests = pack(stored, name, logs)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [f"{name}.json", f"{name}.zst"]
    assert read_pack(stored, name) == manifests
    for number in (0, 1, 567, 999):
        output = stored_output(manifests[number], stored)
        assert b"".join(piece.data for piece in output.all()) == b"first of %d\nlast\n" % number
        assert b"".join(piece.data for piece in output.from_line(2)) == b"last\n"
    delete_pack(stored, name)
    assert read_pack(stored, name) == []
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_what_redis_has_dropped_stays_a_gap_in_the_pack(tmp_path: Path) -> None:
    stored = StoredLogs(f"file://{tmp_path}")
    empty = log_of(1)
    cut = log_of(2, LogChunk("5-0", 100, b"torn\nwhole\n", 7), LogChunk("6-0", 211, b"x\nlater\n", None))
    [nothing, manifest] = pack(stored, new_name(), [empty, cut])
    assert list(stored_output(nothing, stored).all()) == []
    pieces = list(stored_output(manifest, stored).all())
    assert [piece.data for piece in pieces] == [b"whole\n", b"later\n"]
    assert [piece.gap for piece in pieces] == [Gap(105, 8, "are kept nowhere"), Gap(102, None, "are kept nowhere")]


def test_what_is_left_of_a_pack_is_packed_again_as_it_is(tmp_path: Path) -> None:
    stored = StoredLogs(f"file://{tmp_path}")
    logs = [log_of(number, LogChunk("1-0", 0, b"output of %d\n" % number, 0)) for number in range(5)]
    old = new_name()
    before = pack(stored, old, logs)
    name = new_name()
    after = pack_again(stored, name, [before[1], before[3]])
    delete_pack(stored, old)
    assert read_pack(stored, name) == after
    for number, manifest in zip((1, 3), after, strict=True):
        assert b"".join(piece.data for piece in stored_output(manifest, stored).all()) == b"output of %d\n" % number
