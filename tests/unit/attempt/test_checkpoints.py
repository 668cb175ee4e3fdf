"""A keeper takes what a job calls complete, stores the newest, and answers; of a silent job it decides by itself."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from launch_worker.attempt import checkpoints
from launch_worker.attempt.checkpoints import (
    End,
    GivenUpError,
    Keeper,
    Sender,
    SupersededError,
    is_complete,
    send_left,
)
from launch_worker.attempt.folder import AttemptFolder
from launch_worker.current import CHECKPOINTED, TAKEN
from launch_worker.errors import LaunchError
from launch_worker.model.checkpoint import Checkpoint
from launch_worker.outputs.manifest import Manifest
from launch_worker.outputs.snapshot import (
    Known,
    Snapshot,
    UnsettledError,
    look_at,
    next_number,
    take,
    taken_before,
)
from tests.conftest import wait_until

GOOD = frozenset({0, 85})


def ended(status: int | None, died_ns: int | None = None) -> End:
    return End(status, GOOD, lambda: died_ns)


class Store:
    """A sender that keeps what it is given, may hold it up, and may fail."""

    def __init__(self) -> None:
        self.newest = None
        self.known: Known = {}
        self.sent: list[dict[str, str]] = []
        self.is_open = threading.Event()
        self.is_open.set()
        self.errors: list[Exception] = []

    def send(self, snapshot: Snapshot, check: Callable[[], None]) -> Checkpoint:
        texts = {str(path.relative_to(snapshot.files)): path.read_text() for path in snapshot.files.rglob("*")}
        while not self.is_open.wait(0.01):
            check()
        if self.errors:
            raise self.errors.pop(0)
        self.sent.append(texts)
        return Checkpoint(1, snapshot.number, len(texts), 0, 0)


class Job:
    """A job's folder, the store of its worker, and the keeper between the two."""

    def __init__(self, path: Path, *, every_s: float | None = None) -> None:
        self.attempt = AttemptFolder(path / "1m83cyvtfq1tc69.1.7")
        self.attempt.make()
        self.folder = Path(self.attempt.make_checkpoint())
        self.store = Store()
        self.keeper = Keeper(self.attempt, self.store, every_s=every_s)  # type: ignore[arg-type]

    def write(self, text: str, name: str = "model") -> None:
        (self.folder / name).write_text(text)

    def answer(self, name: str) -> str:
        path = self.attempt.talk / name
        return path.read_text().strip() if path.exists() else ""

    def save(self, label: int) -> None:
        """Write a state, call it complete, and wait until it is copied."""
        self.write(str(label))
        self.keeper.note(label)
        wait_until(lambda: self.answer(TAKEN) == str(label), what=f"state {label} is taken")

    @property
    def models(self) -> list[str]:
        return [sent["model"] for sent in self.store.sent]


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    made = Job(tmp_path)
    yield made
    made.store.is_open.set()
    made.keeper.leave()


def test_a_job_is_answered_when_its_state_is_copied_and_when_it_is_stored(job: Job) -> None:
    job.store.is_open.clear()
    job.save(3)
    assert job.answer(CHECKPOINTED) == ""
    job.write("written on")
    job.store.is_open.set()
    wait_until(lambda: job.answer(CHECKPOINTED) == "3")
    assert job.store.sent == [{"model": "3"}]
    wait_until(lambda: not list(job.attempt.path.glob("taken*")), what="the copy is deleted")


def test_while_a_state_is_sent_only_the_newest_waits(job: Job) -> None:
    job.store.is_open.clear()
    for label in (1, 2, 3, 4):
        job.save(label)
        wait_until(lambda: job.keeper._sending is not None)
    assert len(taken_before(job.attempt.path)) == 2
    job.store.is_open.set()
    wait_until(lambda: job.answer(CHECKPOINTED) == "4")
    assert job.models == ["1", "4"]


def test_a_store_that_fails_is_tried_again_and_a_newer_state_takes_the_place_of_the_one_that_failed(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "_RETRY_S", 0.01)
    job.store.errors = [LaunchError("away")] * 3
    job.save(1)
    wait_until(lambda: job.answer(CHECKPOINTED) == "1")
    monkeypatch.setattr(checkpoints, "_RETRY_S", 600.0)
    monkeypatch.setattr(checkpoints, "_LONGEST_RETRY_S", 600.0)
    job.store.errors = [LaunchError("away")]
    job.save(2)
    wait_until(lambda: not job.store.errors)
    job.save(3)
    wait_until(lambda: job.answer(CHECKPOINTED) == "3")
    assert job.models == ["1", "3"]


def test_a_state_that_cannot_be_taken_is_answered_with_the_reason(job: Job) -> None:
    job.write("1")
    os.close(os.open(os.fsencode(job.folder) + b"/\xff", os.O_CREAT))
    job.keeper.note(5)
    wait_until(lambda: job.answer(TAKEN).startswith("5 no state of the folder"))
    assert job.store.sent == []


def test_the_last_state_of_a_job_that_ended_by_itself_is_stored(job: Job) -> None:
    job.write("last")
    job.store.is_open.clear()
    assert job.keeper.conclude(ended(1))
    job.store.is_open.set()
    assert job.keeper.wait(timeout_s=30, unwanted=lambda: False)
    assert job.models == ["last"]
    assert job.folder.is_dir(), "it was stored from where it is"


def test_nothing_is_to_be_stored_of_an_empty_folder_or_of_a_state_that_is_stored(job: Job) -> None:
    assert not job.keeper.conclude(ended(1))
    other = Job(job.attempt.path.parent / "other")
    other.save(1)
    wait_until(lambda: other.answer(CHECKPOINTED) == "1")
    assert not other.keeper.conclude(ended(0))


def test_the_end_waits_no_longer_than_it_may_and_what_is_unwanted_is_not_stored(job: Job) -> None:
    job.store.is_open.clear()
    job.save(1)
    assert job.keeper.conclude(ended(-9))
    assert not job.keeper.wait(timeout_s=0.1, unwanted=lambda: False)
    assert [taken.label for taken in taken_before(job.attempt.path)] == [1], "the next worker finds it"
    other = Job(job.attempt.path.parent / "other")
    other.store.is_open.clear()
    other.save(1)
    assert other.keeper.conclude(ended(-9))
    begun = time.monotonic()
    assert not other.keeper.wait(timeout_s=600, unwanted=lambda: True)
    assert time.monotonic() - begun < 60
    assert job.models == other.models == []


def test_a_superseded_attempt_stores_nothing_more(job: Job) -> None:
    job.store.errors = [SupersededError("another has it")]
    job.save(1)
    wait_until(lambda: not job.store.errors)
    assert not job.keeper.conclude(ended(-9))
    assert job.models == []


def test_the_next_worker_goes_on_with_what_was_taken_and_answers_no_label_twice(job: Job) -> None:
    job.store.is_open.clear()
    job.save(1)
    job.keeper.leave()
    (job.attempt.path / "words.json").write_text(
        '{"finish": null, "preempting": false, "heeds_stop": false, "checkpoint": 1}'
    )
    store = Store()
    keeper = Keeper(job.attempt, store, every_s=None)  # type: ignore[arg-type]
    keeper.take_up()
    keeper.note(1)
    wait_until(lambda: job.answer(CHECKPOINTED) == "1")
    assert store.sent == [{"model": "1"}]
    job.write("half")
    assert not keeper.conclude(ended(1)), "its job speaks, and did not call this complete"
    keeper.leave()


def test_a_folder_is_taken_as_often_as_asked_for_once_it_is_settled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch_worker.outputs.snapshot.SETTLED_S", 0.2)
    job = Job(tmp_path, every_s=0.01)
    job.keeper.begin()
    try:
        job.write("1")
        wait_until(lambda: job.models == ["1"])
        job.write("half", name="model.tmp")
        os.replace(job.folder / "model.tmp", job.folder / "model")
        wait_until(lambda: job.models == ["1", "half"])
    finally:
        job.keeper.leave()


def test_a_folder_that_never_settles_is_taken_as_it_is_between_two_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch_worker.outputs.snapshot.SETTLED_S", 3600.0)
    monkeypatch.setattr("launch_worker.attempt.checkpoints._LEAST_RESTLESS_S", 0.05)
    job = Job(tmp_path, every_s=0.05)
    with (job.folder / "model").open("w") as file:
        file.write("half")
        file.flush()
        with pytest.raises(UnsettledError, match="it is being written"):
            take(job.folder, number=1, may_be_amid=True)
        job.keeper.begin()
        try:
            file.write(" and half")
            file.close()
            wait_until(lambda: job.models == ["half and half"])
            job.write("2", name="model.tmp")
            os.replace(job.folder / "model.tmp", job.folder / "model")
            wait_until(lambda: job.models == ["half and half", "2"])
        finally:
            job.keeper.leave()


SETTLED_NS = 2 * 10**9


@pytest.mark.parametrize(
    ("end", "speaks", "heard_ns", "complete"),
    [
        (ended(0), False, None, True),
        (ended(1), False, None, True),
        (ended(-9), False, None, False),
        (ended(None), False, None, False),
        (ended(-9, 2 * SETTLED_NS), False, None, True),
        (ended(-9, SETTLED_NS - 1), False, None, False),
        (ended(0), True, None, True),
        (ended(85), True, None, True),
        (ended(1), True, None, False),
        (ended(-9, 2 * SETTLED_NS), True, None, False),
        (ended(-9), True, 1, True),
        (ended(-9), True, -1, False),
    ],
)
def test_what_makes_the_last_state_complete(
    tmp_path: Path, end: End, speaks: bool, heard_ns: int | None, complete: bool
) -> None:
    """The last change is at 0."""
    (tmp_path / "model").write_text("1")
    look = look_at(tmp_path)
    look.changed_ns = 0
    assert is_complete(look, end, speaks=speaks, heard_ns=heard_ns) == complete


def test_nobody_is_kept_by_a_check_that_gives_up(job: Job) -> None:
    job.save(1)
    job.keeper.leave()
    with pytest.raises(GivenUpError):
        job.keeper._check()
    assert take(job.folder, number=9).files.is_dir()


def test_a_state_has_a_greater_number_than_the_one_from_which_its_attempt_went_on(job: Job) -> None:
    """Machines have clocks of their own."""
    job.write("1")
    later = next_number(0) + 10**9
    job.keeper.note_restored(Manifest(job.attempt.run_id, 1), later)
    assert not job.keeper.conclude(ended(1)), "nothing has changed"
    job.write("two")
    job.store.is_open.clear()
    assert job.keeper.conclude(ended(1))
    sending = wait_until(lambda: job.keeper._sending)
    assert sending.number == later + 1


def test_what_a_dead_worker_left_is_newer_than_all_that_it_stored_though_the_clock_was_set_back(tmp_path: Path) -> None:
    folder = AttemptFolder(tmp_path / "01hq2mzk8q00000.1.7")
    folder.make()
    (Path(folder.make_checkpoint()) / "epoch").write_text("9")
    ahead = next_number(0) + 3_600_000
    sent: list[int] = []

    class Noting(Sender):
        def send(self, snapshot: Snapshot, check: Callable[[], None]) -> Checkpoint:
            sent.append(snapshot.number)
            return Checkpoint(1, snapshot.number, 1, 1, 0)

    newest = Checkpoint(1, ahead, 1, 1, 0)
    sender = Noting("", cast("Any", None), run_id="x", attempt=1, token=7, owner="", newest=newest)
    assert send_left(folder, sender, ended(0), check=lambda: None)
    assert sent[0] > ahead
