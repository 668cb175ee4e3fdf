"""A whole log is stored in pieces, again after an error, from another worker's state, and around what was lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launch_worker.errors import LaunchError
from launch_worker.logs.manifest import Manifest
from launch_worker.logs.output import Output
from launch_worker.logs.parts import stored_parts
from launch_worker.logs.recorder import Recorder, buffer_folder, keep_output
from launch_worker.logs.stored import StoredLogs
from launch_worker.logs.whole import Bounds, Mark, WholeLog
from launch_worker.runners.output import OutputFile
from tests.conftest import wait_until

RUN = "1m83cyvtfq1tc69"
NAME = f"{RUN}.1.7"
KIB = 1 << 10
BOUNDS = Bounds(keep_bytes=64 << 20, redis_bytes=64 * KIB)


class Place:
    """A store in a folder, an output file, and the whole log of it."""

    def __init__(self, folder: Path, bounds: Bounds = BOUNDS) -> None:
        self.folder = folder / "store"
        self.stored = StoredLogs(f"file://{self.folder}")
        self.output = folder / "runs" / NAME / "output"
        self.output.parent.mkdir(parents=True)
        self.printed = b""
        self.print(b"")
        self.bounds = bounds
        self.log = self.another()
        self.now_s = 0.0

    def another(self) -> WholeLog:
        return WholeLog(RUN, 1, 7, self.output, self.bounds)

    def print(self, data: bytes) -> None:
        with self.output.open("ab") as file:
            file.write(data)
        self.printed += data

    def turn(self, after_s: float = 0.0, marks: tuple[Mark, ...] = ()) -> None:
        """Turns until nothing is due."""
        self.now_s += after_s
        assert self.log.open()
        while self.log.turn(self.stored, self.now_s, now_ms=int(self.now_s * 1000), marks=marks):
            pass

    @property
    def manifest(self) -> Manifest:
        found = self.stored.manifest(RUN, 1)
        assert found is not None
        return found

    def read(self) -> bytes:
        output = Output(stored_parts(self.manifest), stored=self.stored, end=self.manifest.end)
        return b"".join(piece.data for piece in output.all())

    def objects(self) -> list[str]:
        return sorted(path.name for path in self.folder.rglob("*.zst"))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def numbers(first: int, last: int) -> bytes:
    return b"".join(b"%d\n" % number for number in range(first, last + 1))


def test_new_output_is_stored_after_some_time_and_a_small_segment_grows(place: Place) -> None:
    place.print(numbers(1, 20_000))
    place.turn()
    first = place.objects()
    assert (len(first), place.read()) == (1, place.printed)
    for _ in range(20):
        place.print(b"a line\n")
        place.turn(after_s=1.0)
    assert place.objects() == first, "little is not stored at once"
    assert place.log.next_turn_s(place.now_s) is not None
    place.turn(after_s=30.0)
    assert len(place.objects()) == 1
    assert place.objects() != first, "the segment has grown, and its old object is gone"
    assert place.read() == place.printed
    assert place.manifest.end_line == place.printed.count(b"\n")


def test_the_small_blocks_of_a_slow_job_become_few(place: Place) -> None:
    place.print(numbers(1, 20_000))
    place.turn()
    for number in range(100):
        place.print(b"%d: slow\n" % number)
        place.turn()
        place.turn(after_s=31.0)
    assert place.read() == place.printed
    [segment] = place.manifest.segments
    assert len(segment.blocks) < 12
    times = [block.at_ms for block in segment.blocks]
    assert times == sorted(times)


def test_a_store_that_fails_changes_nothing_and_is_tried_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.print(numbers(1, 20_000))
    with monkeypatch.context() as broken:

        def fail(*_: object) -> None:
            raise LaunchError("the store is away")

        broken.setattr(place.stored.objects, "put", fail)
        for _ in range(3):
            with pytest.raises(LaunchError, match="away"):
                place.turn()
    place.turn()
    assert place.read() == place.printed


def test_another_worker_goes_on_where_the_manifest_ends_and_deletes_what_no_manifest_names(place: Place) -> None:
    place.print(numbers(1, 20_000))
    place.turn()
    (place.folder / RUN / "1" / "0000-torn.zst").write_bytes(b"left by a kill -9")
    place.print(numbers(20_001, 40_000))
    place.log.close()
    place.log = place.another()
    place.log.is_ended = True
    place.turn()
    assert place.log.is_done
    assert place.read() == place.printed
    assert (len(place.objects()), place.manifest.is_complete) == (1, True)
    assert not place.output.exists()


def test_only_one_worker_has_a_log_at_once(place: Place) -> None:
    assert place.log.open()
    other = place.another()
    assert not other.open()
    place.log.close()
    assert other.open()
    other.close()


def test_output_that_was_lost_before_it_was_stored_is_counted(place: Place) -> None:
    place.print(numbers(1, 20_000))
    place.turn()
    end = len(place.printed)
    place.print(numbers(20_001, 200_000))
    file = OutputFile(place.output)
    file.free_before(512 * KIB)
    file.close()
    mark = Mark(1 << 20, place.printed.count(b"\n", 0, 1 << 20), 5)
    place.turn(after_s=20.0, marks=(mark,))
    first, second = place.manifest.segments[:2]
    assert (first.end, second.offset) == (end, 512 * KIB)
    assert second.line == place.printed.count(b"\n", 0, 512 * KIB), "the lines are known from the shipper's mark"
    output = Output(stored_parts(place.manifest), stored=place.stored)
    assert b"".join(piece.data for piece in output.from_line(150_000)) == numbers(150_000, 200_000)


def test_lost_lines_that_nobody_counted_are_not_made_up(place: Place) -> None:
    place.print(numbers(1, 20_000))
    place.turn()
    place.print(numbers(20_001, 200_000))
    file = OutputFile(place.output)
    file.free_before(512 * KIB)
    file.close()
    place.turn(after_s=20.0)
    assert place.manifest.segments[1].is_line_unsure
    gaps = [piece.gap for piece in Output(stored_parts(place.manifest), stored=place.stored).all() if piece.gap]
    assert [(gap.lines, gap.why) for gap in gaps] == [(None, "are kept nowhere")]


def test_the_middle_is_dropped_while_the_job_runs(tmp_path: Path) -> None:
    place = Place(tmp_path, Bounds(keep_bytes=1 << 20, redis_bytes=64 * KIB))
    for first in range(1, 500_001, 50_000):
        place.print(numbers(first, first + 49_999))
        place.turn(after_s=20.0)
        assert place.manifest.kept_bytes <= 1 << 20
    place.turn(after_s=31.0)
    place.turn(after_s=31.0)
    kept = place.read()
    assert kept.startswith(place.printed[: 256 * KIB])
    assert kept.endswith(place.printed[-256 * KIB :])
    assert len(place.objects()) == len(place.manifest.segments)
    [gap] = [piece.gap for piece in Output(stored_parts(place.manifest), stored=place.stored).all() if piece.gap]
    assert gap.bytes + len(kept) == len(place.printed)
    assert gap.lines == place.printed.count(b"\n") - kept.count(b"\n")


def test_a_manifest_that_is_damaged_or_another_runs_is_written_anew(place: Place) -> None:
    place.print(numbers(1, 20_000))
    path = place.folder / RUN / "1" / "manifest.json"
    for text in (b"torn {", Manifest(RUN, 1, 6, end=10**9).to_json()):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
        place.log.close()
        place.log = place.another()
        place.turn()
        assert place.read() == place.printed


@pytest.mark.parametrize(
    "text",
    [
        b"[]",
        b'{"run":1}',
        b'{"run":"r","attempt":1,"token":1,"end":0,"end_line":0,"end_ms":0,"complete":0,"segments":[["../../x",0,0,0,0,[]]]}',
        b'{"run":"r","attempt":1,"token":1,"end":0,"end_line":0,"end_ms":0,"complete":0,'
        b'"segments":[["packs/a.zst",0,0,0,0,[[99999999,1,1,1]]]]}',
        b'{"run":"r","attempt":-1,"token":1,"end":0,"end_line":0,"end_ms":0,"complete":0,"segments":[]}',
    ],
)
def test_what_is_no_manifest_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        Manifest.from_json(text)


class Shipped:
    """A source as the log shipper has it."""

    run_id, attempt, base, ahead_ms = RUN, 1, 0, 0

    def __init__(self, path: Path) -> None:
        self.path = path

    def marks(self) -> tuple[Mark, ...]:
        return ()


def test_output_that_waits_too_long_for_its_store_is_bounded_on_the_disk(place: Place, tmp_path: Path) -> None:
    tmp_path.joinpath("store").write_text("no folder")
    work_dir = tmp_path
    recorder = Recorder(f"file://{place.folder}", work_dir, BOUNDS, buffer_bytes=3 << 20)
    printed = os.urandom(2 << 20)
    for number in range(4):
        name = f"{RUN}.{number + 1}.7"
        path = tmp_path / "runs" / name / "output"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(printed)
        source = Shipped(path)
        source.attempt = number + 1
        recorder.keep(source)

    def waiting() -> int:
        return sum(path.stat().st_blocks * 512 for path in buffer_folder(work_dir).iterdir())

    wait_until(lambda: waiting() <= 3 << 20, what="the oldest output is given up")
    tmp_path.joinpath("store").unlink()
    wait_until(lambda: not list(buffer_folder(work_dir).iterdir()), what="the rest is stored")
    recorder.close()
    newest, oldest = (place.stored.manifest(RUN, attempt) for attempt in (4, 1))
    assert newest is not None
    assert oldest is not None
    assert (newest.kept_bytes, newest.end) == (2 << 20, 2 << 20)
    assert (oldest.kept_bytes < 1 << 20, oldest.end) == (True, 2 << 20), "what was given up is counted"


def test_a_log_that_cannot_be_stored_keeps_no_other_from_being_stored(place: Place, tmp_path: Path) -> None:
    (place.folder / RUN).mkdir(parents=True)
    (place.folder / RUN / "1").write_text("in the way of attempt 1")
    recorder = Recorder(f"file://{place.folder}", tmp_path, BOUNDS, buffer_bytes=1 << 30)
    for attempt in (1, 2, 3):
        path = tmp_path / "runs" / f"{RUN}.{attempt}.7" / "output"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(numbers(1, 50_000))
        source = Shipped(path)
        source.attempt = attempt
        recorder.keep(source)
    for attempt in (2, 3):
        wait_until(lambda attempt=attempt: place.stored.manifest(RUN, attempt) is not None)  # type: ignore[misc]
    recorder.close()
    assert [path.name for path in buffer_folder(tmp_path).iterdir()] == [NAME]


def test_the_recorder_adopts_what_a_dead_worker_has_left(place: Place, tmp_path: Path) -> None:
    place.print(numbers(1, 20_000))
    keep_output(tmp_path, place.output)
    (buffer_folder(tmp_path) / "no output of ours").write_text("x")
    recorder = Recorder(f"file://{place.folder}", tmp_path, BOUNDS, buffer_bytes=1 << 30)
    recorder.adopt()
    wait_until(lambda: (found := place.stored.manifest(RUN, 1)) is not None and found.is_complete)
    recorder.close()
    assert place.read() == place.printed
