"""A state of a job's folder is taken at one instant, whatever the job does meanwhile, and comes back as it was."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from launch_worker.errors import DamagedError, LaunchError
from launch_worker.outputs import checkpoints, snapshot
from launch_worker.outputs.checkpoints import Place
from launch_worker.outputs.content import Found
from launch_worker.outputs.manifest import Manifest
from launch_worker.outputs.snapshot import Snapshot, UnsettledError, look_at, take, taken_before
from launch_worker.outputs.stored import StoredOutputs

RUN = "01hq2mzk8q00000"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "attempt" / "checkpoint"
    made.mkdir(parents=True)
    return made


@pytest.fixture
def stored(tmp_path: Path) -> StoredOutputs:
    return StoredOutputs(f"file://{tmp_path}/store")


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / name).write_text(text)


def texts(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def store(taken: Snapshot, stored: StoredOutputs, *, attempt: int = 1, earlier: Manifest | None = None) -> Manifest:
    return checkpoints.store(
        taken, stored, run_id=RUN, attempt=attempt, earlier={} if earlier is None else earlier.contents
    )


def age(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all changes of now be long ago."""
    later = time.time_ns() + 10 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: later)


def test_a_state_is_what_the_folder_had_and_the_job_may_write_on(folder: Path, stored: StoredOutputs) -> None:
    write(folder, model="1", **{"optimizer.tmp": "half", ".metadata": "of PyTorch"})
    (folder / "shards").mkdir()
    write(folder / "shards", a="a", **{"b.partial": "half"})
    os.symlink("model", folder / "latest")
    os.symlink("../latest", folder / "shards" / "up")
    os.symlink("shards", folder / "folder")
    os.symlink("/etc/passwd", folder / "outside")
    os.symlink("folder/../../x", folder / "around")
    taken = take(folder, number=7, label=3)
    write(folder, model="2")
    assert texts(taken.files) == {"model": "1", ".metadata": "of PyTorch", "shards/a": "a"}
    manifest = store(taken, stored)
    assert [one.path for one in manifest.left_out] == ["around", "outside"]
    taken.remove()
    assert os.listdir(folder.parent) == ["checkpoint"]
    back = folder.parent / "back"
    place = checkpoints.newest(stored, RUN, before=2)
    assert place == Place(1, 7)
    checkpoints.restore(stored, checkpoints.manifest_of(stored, RUN, place), back)
    links = {"latest": "1", "shards/up": "1"}
    assert texts(back) == {"model": "1", ".metadata": "of PyTorch", "shards/a": "a"} | links
    assert [os.readlink(back / name) for name in ("latest", "shards/up", "folder")] == ["model", "../latest", "shards"]


def test_another_target_of_a_link_is_another_state(folder: Path) -> None:
    write(folder, a="1", b="2")
    os.symlink("a", folder / "latest")
    before = look_at(folder).state
    os.unlink(folder / "latest")
    os.symlink("b", folder / "latest")
    assert look_at(folder).state != before


def test_a_state_is_never_half_old_and_half_new(folder: Path) -> None:
    write(folder, a="0", b="0" * 100_000)
    stop = threading.Event()

    def train() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            for name in ("a", "b"):
                write(folder, **{f"{name}.tmp": str(number)})
                os.replace(folder / f"{name}.tmp", folder / name)
            stop.wait(0.05)

    thread = threading.Thread(target=train)
    thread.start()
    try:
        for number in range(10):
            try:
                taken = take(folder, number=number)
            except UnsettledError:
                continue
            found = texts(taken.files)
            # The two are written one after the other, and a state may be taken between: of one instant, not of two.
            assert 0 <= int(found["a"]) - int(found["b"]) <= 1
    finally:
        stop.set()
        thread.join()


def test_a_folder_that_never_holds_still_has_no_state(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, a="0")
    looks = iter(range(100))

    copy = snapshot._copy

    def copy_and_change(top: int, file: Found, target: Path) -> None:
        copy(top, file, target)
        write(folder, a="x" * next(looks))

    monkeypatch.setattr(snapshot, "_copy", copy_and_change)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(UnsettledError, match="did not hold still"):
        take(folder, number=1)
    assert os.listdir(folder.parent) == ["checkpoint"]


def test_an_unchanged_file_is_neither_copied_nor_sent_again(
    folder: Path, stored: StoredOutputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, big="b", small="1")
    age(folder, monkeypatch)
    taken = take(folder, number=1)
    first = store(taken, stored)
    write(folder, small="2")
    later = take(folder, number=2, known=taken.known(first))
    assert texts(later.files) == {"small": "2"}
    second = store(later, stored, earlier=first)
    assert [file.path for file in second.files] == ["big", "small"]
    checkpoints.delete_superseded(stored, Place(1, 2), second)
    back = folder.parent / "back"
    checkpoints.restore(stored, checkpoints.manifest_of(stored, RUN, Place(1, 2)), back)
    assert texts(back) == {"big": "b", "small": "2"}
    assert len(stored.objects.names(f"checkpoints/{RUN}")) == 3


def test_a_file_of_just_now_is_looked_at_again(folder: Path, stored: StoredOutputs) -> None:
    write(folder, a="1")
    taken = take(folder, number=1)
    assert not taken.known(store(taken, stored)), "another change in the same instant would leave no trace"


def test_only_what_the_newest_does_not_name_is_deleted_and_nothing_of_later_attempts(
    folder: Path, stored: StoredOutputs
) -> None:
    write(folder, a="1", b="1b")
    first = store(take(folder, number=1), stored)
    write(folder, a="2")
    newest = store(take(folder, number=5), stored, attempt=2, earlier=first)
    write(folder, a="3")
    store(take(folder, number=6), stored, attempt=3)
    checkpoints.delete_superseded(stored, Place(2, 5), newest)
    assert checkpoints.newest(stored, RUN, before=2) is None
    assert checkpoints.newest(stored, RUN, before=3) == Place(2, 5)
    assert checkpoints.newest(stored, RUN, before=9) == Place(3, 6)
    assert checkpoints.newest(stored, RUN, before=3, since=3) is None
    for place, texts_of in ((Place(2, 5), {"a": "2", "b": "1b"}), (Place(3, 6), {"a": "3", "b": "1b"})):
        back = folder.parent / str(place)
        checkpoints.restore(stored, checkpoints.manifest_of(stored, RUN, place), back)
        assert texts(back) == texts_of


def test_a_damaged_checkpoint_is_not_restored_by_half(folder: Path, stored: StoredOutputs, tmp_path: Path) -> None:
    write(folder, a="1" * 100, b="2" * 100)
    manifest = store(take(folder, number=1), stored)
    [damaged, _] = [path for path in (tmp_path / "store").rglob("*") if path.is_file() and path.suffix != ".json"]
    damaged.write_text("x" * 100)
    back = folder.parent / "back"
    back.mkdir()
    with pytest.raises(DamagedError, match="is not what its manifest says"):
        checkpoints.restore(stored, manifest, back)
    assert os.listdir(back) == []
    with pytest.raises(DamagedError, match="is gone from the store"):
        checkpoints.manifest_of(stored, RUN, Place(4, 1))


def test_a_folder_with_a_file_that_cannot_be_kept_has_no_state(folder: Path) -> None:
    write(folder, good="1")
    os.close(os.open(os.path.join(os.fsencode(folder), b"\xff"), os.O_CREAT))
    with pytest.raises(LaunchError, match=r"can be kept: .*its name is no UTF-8"):
        take(folder, number=1)


def test_holes_take_no_room_in_a_state_and_one_larger_than_the_disk_is_none(folder: Path) -> None:
    with open(folder / "holes", "wb") as file:
        file.truncate(64 << 20)
        file.seek(32 << 20)
        file.write(b"data")
    taken = take(folder, number=1)
    assert (taken.files / "holes").stat().st_size == 64 << 20
    assert (taken.files / "holes").stat().st_blocks * 512 < 1 << 20
    assert (taken.files / "holes").read_bytes() == (folder / "holes").read_bytes()
    os.truncate(folder / "holes", shutil.disk_usage(folder).total + 1)
    assert "more bytes than the disk has" in look_at(folder).problem
    with pytest.raises(LaunchError, match="no state of the folder of checkpoints can be kept: holes: it has holes"):
        take(folder, number=2)


def test_the_next_worker_finds_what_was_taken_unless_the_machine_was_restarted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 3, 2):
        write(folder, a=str(number))
        take(folder, number=number, label=10 * number)
    (folder.parent / "taken.9.9").mkdir()
    found = taken_before(folder.parent)
    assert [(taken.number, taken.label, texts(taken.files)["a"]) for taken in found] == [
        (1, 10, "1"),
        (2, 20, "2"),
        (3, 30, "3"),
    ]
    monkeypatch.setattr(snapshot, "boot_id", lambda: "another")
    assert taken_before(folder.parent) == []
