"""The folder of an attempt: made, used, deleted or used again, and what it keeps of an end."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch_worker.attempt.folder import AttemptFolder
from launch_worker.attempt.worker_folder import WorkerFolder
from launch_worker.clock import boot_time_s
from launch_worker.model.outcome import Outcome
from launch_worker.model.retry import NextStep
from launch_worker.model.run import Record
from launch_worker.model.spec import RunSpec
from launch_worker.model.states import RunState

RECORD = Record.from_hash(
    {
        "id": "r1",
        "name": "train",
        "queue": "default",
        "state": "Running",
        "attempt": "2",
        "token": "7",
        "worker": "w",
        "created_at": "1700000000000000",
        "spec": RunSpec(command=("true",)).to_json(),
    }
)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[WorkerFolder]:
    made = WorkerFolder.create(tmp_path, "o1", worker="w")
    yield made
    for attempt in made.attempts():
        attempt.remove()
    made.release()
    assert not made.path.exists()


def begin(worker: WorkerFolder, token: int, config: bytes = b"{}") -> AttemptFolder:
    """An attempt's folder as it is once its job runs."""
    folder = worker.attempt(replace(RECORD, token=token))
    folder.make()
    folder.write_config(config)
    folder.output.touch()
    return folder


def spares(worker: WorkerFolder) -> list[Path]:
    return list(worker.path.glob("spare/*"))


def content(folder: AttemptFolder) -> list[str]:
    return sorted(str(path.relative_to(folder.path)) for path in folder.path.rglob("*"))


def test_a_folder_is_as_new_whatever_became_of_the_ones_before(worker: WorkerFolder) -> None:
    inodes = set()
    for token in range(5):
        folder = begin(worker, token)
        assert content(folder) == ["config.json", "output", "talk"]
        assert (folder.path.stat().st_mode & 0o777, folder.talk.stat().st_mode & 0o777) == (0o700, 0o700)
        assert (folder.run_id, folder.attempt, folder.token, folder.key) == ("r1", 2, token, "r1.2")
        assert [attempt.root for attempt in worker.attempts()] == [folder.root]
        inodes.add(folder.path.stat().st_ino)
        folder.remove()
        assert not folder.path.exists()
        assert worker.attempts() == []
    assert len(inodes) == 1, "it is used again"


def replace_talk(folder: AttemptFolder) -> None:
    folder.talk.rmdir()
    folder.talk.symlink_to("/tmp")


def test_the_folder_of_a_longer_job_is_deleted(worker: WorkerFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = begin(worker, 1)
    later = time.monotonic() + 3
    monkeypatch.setattr(time, "monotonic", lambda: later)
    folder.remove()
    assert (folder.path.exists(), spares(worker)) == (False, [])


def test_of_a_job_that_printed_nothing_is_left_for_the_next(worker: WorkerFolder) -> None:
    folder = begin(worker, 1, b"a long configuration")
    folder.output.write_bytes(b"x" * 100_000)
    inode = folder.output.stat().st_ino
    folder.remove()
    again = begin(worker, 2, b"short")
    assert again.output.stat().st_ino == inode
    assert (again.output.read_bytes(), (again.path / "config.json").read_bytes()) == (b"", b"short")
    again.remove()
    assert (begin(worker, 3, b"longer again").path / "config.json").read_bytes() == b"longer again"


def test_the_folder_of_a_job_that_printed_nothing_needs_no_output(worker: WorkerFolder) -> None:
    folder = begin(worker, 1)
    folder.output.unlink()
    folder.remove()
    assert (folder.path.exists(), len(spares(worker))) == (False, 1)
    assert content(begin(worker, 2)) == ["config.json", "output", "talk"], "`begin` makes it"


@pytest.mark.parametrize("name", ["output", "config.json"])
def test_a_folder_whose_file_has_another_name_too_is_deleted(worker: WorkerFolder, tmp_path: Path, name: str) -> None:
    folder = begin(worker, 1)
    os.link(folder.path / name, tmp_path / "mine")
    folder.remove()
    assert (folder.path.exists(), spares(worker)) == (False, [])


def test_a_start_that_failed_leaves_nothing_of_the_one_before_to_the_next(worker: WorkerFolder) -> None:
    begin(worker, 1, b"a long configuration").remove()
    unwritten = worker.attempt(replace(RECORD, token=2))
    unwritten.make()
    unwritten.remove()
    assert (begin(worker, 3, b"short").path / "config.json").read_bytes() == b"short"


@pytest.mark.parametrize("what", ["seconds ago", "now"])
def test_that_a_folder_is_as_it_was_is_seen_by_its_times_only_where_they_can_tell(
    worker: WorkerFolder, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    begin(worker, 1).remove()
    if what == "seconds ago":
        now = time.time_ns()
        monkeypatch.setattr(time, "time_ns", lambda: now + 10 * 10**9)
    looked: list[str] = []
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: looked.append(path) or real(path))  # type: ignore[func-returns-value]
    begin(worker, 2).remove()
    assert bool(looked) == (what == "now")
    again = begin(worker, 3)
    (again.talk / "to_worker").touch()
    again.remove()
    assert spares(worker) == []


def test_on_a_disk_that_is_nearly_full_nothing_is_used_again(
    worker: WorkerFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(worker, 1).remove()
    inode = spares(worker)[0].stat().st_ino
    real = os.statvfs(worker.path)
    full = os.statvfs_result((real.f_bsize, real.f_frsize, real.f_blocks, 100, 100, *real[5:]))
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    monkeypatch.setattr(worker._reusable, "_plenty_until", 0.0)
    folder = worker.attempt(RECORD)
    folder.make()
    assert folder.is_disk_short
    assert folder.path.stat().st_ino != inode
    assert content(folder) == ["talk"]


def test_what_its_worker_kept_in_the_folder_is_deleted_and_the_folder_used_again(worker: WorkerFolder) -> None:
    folder = begin(worker, 1)
    folder.write("args.json", b"{}")
    folder.keep_record(RECORD)
    folder.write_report(RECORD, NextStep(Outcome(RunState.FINISHED)), owner="o1", ended_s=boot_time_s())
    folder.keep_holding(replace(RECORD, gpus=("0", "3"), needs="2:0:0"))
    assert AttemptFolder(folder.root).read_holding() == (("0", "3"), "2:0:0")
    folder.remove()
    assert len(spares(worker)) == 1
    again = begin(worker, 2)
    assert content(again) == ["config.json", "output", "talk"]
    assert again.read_holding() == ((), "")


LEAVINGS: dict[str, Callable[[AttemptFolder], object]] = {
    "words": lambda folder: (folder.talk / "to_worker").write_text("x"),
    "its own file beside the output": lambda folder: (folder.path / "mine").touch(),
    "a folder full of files": lambda folder: (Path(folder.make_work()) / "x").touch(),
    "another mode": lambda folder: folder.path.chmod(0o755),
    "another mode of the talk": lambda folder: folder.talk.chmod(0o777),
    "a link in the place of the talk": replace_talk,
    "no config": lambda folder: (folder.path / "config.json").unlink(),
    "its exit status, from its guard": lambda folder: (folder.path / "exit-status").touch(),
    "a container": lambda folder: folder.mark_container(RECORD),
}


@pytest.mark.parametrize("what", LEAVINGS)
def test_a_folder_in_which_a_job_left_anything_is_deleted_with_it(worker: WorkerFolder, what: str) -> None:
    folder = begin(worker, 1)
    LEAVINGS[what](folder)
    folder.remove()
    assert not folder.path.exists()
    assert not spares(worker)
    again = begin(worker, 2)
    assert content(again) == ["config.json", "output", "talk"]


def test_an_empty_folder_to_work_in_is_deleted_and_the_rest_used_again(worker: WorkerFolder) -> None:
    folder = begin(worker, 1)
    work = folder.make_work()
    assert os.listdir(work) == []
    folder.remove()
    assert content(begin(worker, 2)) == ["config.json", "output", "talk"]


def test_many_that_end_at_once_leave_few_spares(worker: WorkerFolder) -> None:
    folders = [begin(worker, token) for token in range(100)]
    for folder in folders:
        folder.remove()
    assert 0 < len(spares(worker)) <= 16
    assert [content(begin(worker, token)) for token in range(100, 120)] == [["config.json", "output", "talk"]] * 20


def test_a_spare_that_somebody_deleted_is_made_anew(worker: WorkerFolder) -> None:
    begin(worker, 1).remove()
    for path in spares(worker):
        shutil.rmtree(path)
    assert content(begin(worker, 2)) == ["config.json", "output", "talk"]


def test_an_end_is_read_as_it_was_kept(worker: WorkerFolder) -> None:
    folder = begin(worker, 1)
    outcome = Outcome(RunState.FAILED, reason="exit code 3", phase="run", exit_code=3, worker_fault=True, late_exit="9")
    step = NextStep(outcome, retry_delay_s=1.5, retry_reason="retry 1 of 2", is_preemption=True)
    folder.write_report(RECORD, step, owner="o1", ended_s=boot_time_s() - 20)
    found = AttemptFolder(folder.path).read_report()
    assert found is not None
    assert (found.step, found.owner) == (step, "o1")
    assert found.record.to_hash() == RECORD.to_hash()
    assert found.ended_ago_s == pytest.approx(20, abs=5)
    folder.keep_record(replace(RECORD, owner="o2"))
    kept = folder.read_record()
    assert kept is not None
    assert kept.owner == "o2"
    assert not list(folder.path.glob("*.partial"))


@pytest.mark.parametrize(
    ("ended", "ago_s"),
    [
        ({"boot": "another", "boot_s": 1e9}, 30.0),
        (None, None),
        ({"boot": "another"}, None),
    ],
)
def test_when_it_ended_is_known_by_the_wall_clock_after_the_machine_was_started_anew(
    worker: WorkerFolder, ended: Any, ago_s: Any
) -> None:
    folder = begin(worker, 1)
    folder.write_report(RECORD, NextStep(Outcome(RunState.FINISHED)), owner="o1", ended_s=boot_time_s())
    kept = json.loads((folder.path / "report.json").read_text())
    if ago_s is not None:
        ended = ended | {"wall_s": time.time() - ago_s}
    (folder.path / "report.json").write_text(json.dumps(kept | {"ended": ended}))
    found = AttemptFolder(folder.path).read_report()
    assert found is not None
    # None: of an older release, or damaged; the end itself is not lost.
    assert found.ended_ago_s == (None if ago_s is None else pytest.approx(ago_s, abs=60))


def test_whether_it_is_a_container_is_seen_by_whoever_comes_next(worker: WorkerFolder) -> None:
    folder = begin(worker, 1)
    assert [folder.is_container, AttemptFolder(folder.root).is_container] == [False, False]
    folder.mark_container(RECORD)
    assert [folder.is_container, AttemptFolder(folder.root).is_container] == [True, True]


# -- outputs -----------------------------------------------------------------------------------------------------------


def begin_with_outputs(worker: WorkerFolder, token: int, *patterns: str) -> tuple[AttemptFolder, Path]:
    worker.has_outputs = True
    folder = begin(worker, token)
    return folder, Path(folder.make_outputs(patterns))


def waiting(worker: WorkerFolder) -> list[str]:
    folder = worker.path.parents[1] / "outgoing"
    return os.listdir(folder) if folder.exists() else []


def test_a_job_that_left_nothing_leaves_its_folder_of_outputs_to_the_next(worker: WorkerFolder) -> None:
    folder, outputs = begin_with_outputs(worker, 1)
    inode = outputs.stat().st_ino
    assert not folder.leave_outputs()
    folder.remove()
    again, outputs = begin_with_outputs(worker, 2)
    assert (outputs.stat().st_ino, os.listdir(outputs), waiting(worker)) == (inode, [], [])
    (outputs / "a").write_text("1")
    assert again.leave_outputs()
    again.remove()
    assert (waiting(worker), spares(worker)) == (["r1.2.2"], [])
    _, outputs = begin_with_outputs(worker, 3)
    assert os.listdir(outputs) == []


def test_no_path_deletes_outputs(worker: WorkerFolder) -> None:
    folder, outputs = begin_with_outputs(worker, 1)
    (outputs / "a").write_text("1")
    folder.remove()
    assert (folder.path.exists(), waiting(worker)) == (False, ["r1.2.1"])
    folder, outputs = begin_with_outputs(worker, 2)
    (outputs / "a").write_text("1")
    AttemptFolder(folder.root).remove()
    assert (folder.path.exists(), sorted(waiting(worker))) == (False, ["r1.2.1", "r1.2.2"])


def test_a_run_that_never_began_leaves_a_reused_folder_as_it_was(worker: WorkerFolder) -> None:
    folder, _ = begin_with_outputs(worker, 1)
    folder.remove()
    unbegun = begin(worker, 2)
    assert not unbegun.leave_outputs()
    unbegun.remove()
    assert len(spares(worker)) == 1
    folder, outputs = begin_with_outputs(worker, 3)
    assert os.listdir(outputs) == []


def link_in_its_place(outputs: Path) -> None:
    outputs.rmdir()
    outputs.symlink_to("/etc")


OUTPUTS_LEFT: dict[str, Callable[[Path], object]] = {
    "another mode": lambda outputs: outputs.chmod(0o777),
    "another mode of the folder around": lambda outputs: outputs.parent.chmod(0o777),
    "a file beside": lambda outputs: (outputs.parent / "mine").touch(),
    "a link in its place": link_in_its_place,
    "nothing in its place": lambda outputs: outputs.rmdir(),
    "no folder at all": lambda outputs: shutil.rmtree(outputs.parent),
}


@pytest.mark.parametrize("what", [*OUTPUTS_LEFT, "patterns"])
def test_a_folder_of_outputs_that_is_not_as_it_was_is_deleted(worker: WorkerFolder, what: str) -> None:
    folder, outputs = begin_with_outputs(worker, 1, *(["*.pt"] if what == "patterns" else []))
    if what != "patterns":
        OUTPUTS_LEFT[what](outputs)
    assert not folder.leave_outputs()
    folder.remove()
    assert (folder.path.exists(), spares(worker), waiting(worker)) == (False, [], [])
