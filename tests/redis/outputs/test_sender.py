"""What waits on a worker's machine is sent once, and noted, however often Redis or the store were away."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launch_worker.errors import BrokerUnavailableError
from launch_worker.model.kept_outputs import read_outputs
from launch_worker.model.run import Record
from launch_worker.objects import Objects
from launch_worker.outputs import content, sender
from launch_worker.outputs.content import Bounds, Found
from launch_worker.outputs.garbage import collect
from launch_worker.outputs.manifest import Manifest
from launch_worker.outputs.outgoing import Outgoing, leave_outputs, make_outputs, outgoing_folder, outgoing_names
from launch_worker.outputs.sender import OutputSender
from launch_worker.outputs.stored import GRACE_S, StoredOutputs
from launch_worker.store.store import Store
from tests.conftest import wait_until
from tests.support.arrows import FINISHED, claim, create


class Machine:
    """A machine's folder, and the senders of its workers."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        self.folder = folder
        self.stored = StoredOutputs(f"file://{folder}/kept")
        self.senders: list[OutputSender] = []

    def sender(self) -> OutputSender:
        made = OutputSender(self.stored.objects.url, self.folder, Bounds(), self.store)
        self.senders.append(made)
        return made

    def leave(self, data: bytes = b"1") -> tuple[Record, str]:
        """An ended run that has left a file, and the name of what waits."""
        record = claim(self.store, create(self.store))
        name = f"{record.id}.{record.attempt}.{record.token}"
        attempt = self.folder / "workers/me/runs" / name
        attempt.mkdir(parents=True)
        (Path(make_outputs(str(attempt), ())) / "a").write_bytes(data)
        assert leave_outputs(self.folder, str(attempt))
        self.store.finish(record, FINISHED, leaves_outputs=True)
        return record, name

    def is_noted(self, record: Record) -> bool:
        kept = read_outputs(self.store.get(record.id).outputs).get(record.attempt)
        return kept is not None and not kept.is_sending

    def wait_until_sent(self, *records: Record) -> None:
        wait_until(lambda: all(map(self.is_noted, records)), what="the outputs are noted")
        wait_until(lambda: list(outgoing_folder(self.folder).iterdir()) == [], what="nothing waits")


@pytest.fixture
def machine(store: Store, tmp_path: Path) -> Iterator[Machine]:
    made = Machine(store, tmp_path)
    yield made
    for each in made.senders:
        each.close(at_once=True)


def test_what_waits_is_sent_and_taken_up_by_a_worker_that_starts(machine: Machine) -> None:
    first, name = machine.leave(b"first")
    second, _ = machine.leave(b"second")
    one = machine.sender()
    one.send(name)
    wait_until(lambda: machine.is_noted(first), what="the first is noted")
    assert not machine.is_noted(second)
    other = machine.sender()
    other.adopt()
    machine.wait_until_sent(first, second)
    found = machine.stored.manifest(second.id, 1)
    assert found is not None
    assert b"".join(machine.stored.pieces(found.files[0])) == b"second"


def test_an_outage_of_redis_has_nothing_read_or_sent_again(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    read, reads, keep, calls = content.read_file, [], machine.store.keep_outputs, []

    def counted(folder: int, file: Found) -> Iterator[bytes]:
        reads.append(file.path)
        return read(folder, file)

    def away(*args: Any, **values: Any) -> Any:
        calls.append(args)
        if len(calls) < 3:
            raise BrokerUnavailableError("away")
        return keep(*args, **values)

    monkeypatch.setattr(content, "read_file", counted)
    monkeypatch.setattr(machine.store, "keep_outputs", away)
    monkeypatch.setattr(sender, "_RETRY_S", 0.01)
    record, name = machine.leave()
    machine.sender().send(name)
    machine.wait_until_sent(record)
    assert (len(calls), reads) == (3, ["a", "a"])


def test_a_worker_that_dies_before_it_deletes_what_is_noted_harms_nothing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, name = machine.leave()
    with monkeypatch.context() as dying:
        dying.setattr(Outgoing, "delete", lambda self: (_ for _ in ()).throw(OSError("dead")))
        first = machine.sender()
        first.send(name)
        wait_until(lambda: machine.is_noted(record), what="the outputs are noted")
        first.close(at_once=True)
    assert outgoing_names(machine.folder) == [name]
    machine.sender().adopt()
    machine.wait_until_sent(record)


def test_the_outputs_of_a_deleted_run_are_not_listed(machine: Machine) -> None:
    record, name = machine.leave()
    machine.store.delete(record.id, who="me", keep_s=60)
    machine.sender().send(name)
    wait_until(lambda: outgoing_names(machine.folder) == [], what="nothing waits")
    assert machine.stored.attempts(record.id) == []


def test_a_worker_that_ends_waits_for_no_store_that_hangs(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hangs, released = tmp_path / "hangs", tmp_path / "released"

    def hang(check: Callable[[], None]) -> Any:
        hangs.touch()
        while not released.exists():
            time.sleep(0.01)
        check()

    monkeypatch.setattr(StoredOutputs, "has", lambda *_, **__: hang(lambda: None))
    monkeypatch.setattr(sender, "_CLOSE_S", 0.1)
    record, name = machine.leave()
    made = machine.sender()
    made.send(name)
    wait_until(hangs.exists, what="the store hangs")
    begun = time.monotonic()
    made.close()
    assert time.monotonic() - begun < 10
    released.touch()
    assert not machine.is_noted(record)


def test_two_workers_of_a_machine_send_many_small_outputs_once(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [machine.leave(b"%d" % number)[0] for number in range(40)]
    put, puts = StoredOutputs.put_manifest, []

    def counted(self: StoredOutputs, manifest: Manifest) -> None:
        puts.append(manifest.run_id)
        put(self, manifest)

    monkeypatch.setattr(StoredOutputs, "put_manifest", counted)
    for _ in range(2):
        machine.sender().adopt()
    machine.wait_until_sent(*left)
    assert sorted(puts) == sorted(record.id for record in left)


def test_content_that_a_collection_takes_from_a_sender_is_sent_again(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender comes whole between the collection's last look at the old content and its deletion."""
    monkeypatch.setattr(sender, "_COLLECTING_S", 0.01)
    former, name = machine.leave(b"the same")
    made = machine.sender()
    made.send(name)
    machine.wait_until_sent(former)
    machine.stored.delete_run(former.id)
    (content,) = [path for path in (machine.folder / "kept/content").rglob("*") if path.is_file()]
    os.utime(content, (time.time() - 2 * GRACE_S,) * 2)
    collecting = StoredOutputs(machine.stored.objects.url)
    delete = collecting.objects.delete
    left: list[tuple[Record, str]] = []

    def late(names: Iterable[str]) -> None:
        if not left:
            left.append(machine.leave(b"the same"))
            made.send(left[0][1])
            wait_until(lambda: machine.is_noted(left[0][0]), what="the outputs are noted")
            looks = len(puts)
            wait_until(lambda: len(reads) > 20, what="the sender looks whether the collection is over")
            assert len(puts) == looks, "and stores nothing meanwhile"
        delete(names)

    puts, reads = list[str](), list[bytes]()
    put, look = StoredOutputs.put_manifest, StoredOutputs.is_under_way

    def noted(self: StoredOutputs, manifest: Manifest) -> None:
        puts.append(manifest.run_id)
        put(self, manifest)

    def looked(self: StoredOutputs, collection: bytes) -> bool:
        reads.append(collection)
        return look(self, collection)

    monkeypatch.setattr(StoredOutputs, "put_manifest", noted)
    monkeypatch.setattr(StoredOutputs, "is_under_way", looked)
    monkeypatch.setattr(collecting.objects, "delete", late)
    assert collect(collecting, stopping=threading.Event()).objects == 1
    machine.wait_until_sent(left[0][0])
    found = machine.stored.manifest(left[0][0].id, 1)
    assert found is not None
    assert b"".join(machine.stored.pieces(found.files[0])) == b"the same"


class _Died(BaseException):
    """Ends a thread where it is, as a kill would."""


@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
def test_a_worker_may_die_at_each_step_of_sending(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_done: bool
) -> None:
    """Two workers of the machine take up what it has left, at the same time."""
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    steps = [(Objects, name) for name in ("get", "facts", "put")]
    steps += [(Store, "keep_outputs"), (Outgoing, "delete")]  # type: ignore[list-item]
    number = died_at = 0
    while died_at == number:
        number += 1
        machine = Machine(store, tmp_path / str(number))
        record, name = machine.leave(b"%d" % number)
        count = 0

        def step(call: Callable[..., Any], last: int, *args: Any, **options: Any) -> Any:
            nonlocal count, died_at
            count += 1
            dies = count == last
            try:
                return call(*args, **options) if is_done or not dies else None
            finally:
                if dies:
                    died_at = last
                    raise _Died

        first = machine.sender()
        with monkeypatch.context() as dying:
            for owner, method in steps:
                call = getattr(owner, method)
                dying.setattr(owner, method, _bound(step, call, number))
            first.send(name)
            (thread,) = first._threads
            wait_until(lambda: not thread.is_alive() or (died_at < number and machine.is_noted(record)))  # noqa: B023
        for other in (machine.sender(), machine.sender()):
            other.adopt()
        machine.wait_until_sent(record)
        found = machine.stored.manifest(record.id, 1)
        assert found is not None
        assert b"".join(machine.stored.pieces(found.files[0])) == b"%d" % number
        for each in machine.senders:
            each.close(at_once=True)
    assert number > 6


def _bound(step: Callable[..., Any], call: Callable[..., Any], last: int) -> Callable[..., Any]:
    return lambda *args, **options: step(call, last, *args, **options)
