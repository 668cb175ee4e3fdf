"""A run that another worker than its last one shall try, and what a retry changes in a record."""

from __future__ import annotations

from dataclasses import replace

import pytest

from launch_worker.ids import new_run_id
from launch_worker.model.outcome import Outcome
from launch_worker.model.retry import NextStep, next_step
from launch_worker.model.run import Record
from launch_worker.model.spec import RunSpec, parse_spec
from launch_worker.model.states import RunState
from launch_worker.store.store import Store
from tests.support.arrows import FAILED, crash
from tests.support.workers import Worker

APART = NextStep(FAILED.outcome, retry_delay_s=0.0, retry_reason="retry 1 of 1", avoid="w1")
NOT_AGAIN = "not on w1 again, which failed it: waiting for another worker"


def new_run(store: Store, **more: object) -> str:
    run_id = new_run_id()
    store.create(run_id, RunSpec(command=("true",), **more))  # type: ignore[arg-type]
    return run_id


def fail(worker: Worker, run_id: str, step: NextStep = APART) -> None:
    assert worker.work() == [run_id]
    worker.end(run_id, step)


def test_a_run_goes_to_another_worker_than_the_one_that_failed_it(store: Store) -> None:
    first, other = Worker(store, owner="w1"), Worker(store, owner="w2")
    run_id = new_run(store)
    fail(first, run_id)
    assert first.work() == [], "it has room, and gives the run away"
    assert other.work() == [run_id]
    assert store.get(run_id).avoid == "", "it is for one attempt"
    other.end(run_id, replace(APART, avoid="w2"))
    assert other.work() == []
    assert first.work() == [run_id]


def test_it_waits_for_the_other_worker_and_says_so(store: Store) -> None:
    first, other = Worker(store, owner="w1"), Worker(store, owner="w2", slots=1)
    busy = new_run(store)
    assert other.work() == [busy]
    run_id = new_run(store)
    fail(first, run_id)
    for _ in range(3):
        assert first.work() == []
        first.beat()
    assert first.work() == []
    assert (store.get(run_id).state, store.get(run_id).reason) == (RunState.PENDING, NOT_AGAIN)
    other.end(busy)
    assert (first.work(), other.work()) == ([], [run_id])


def gone(other: Worker) -> None:
    other.store.goodbye(other.owner, queues=other.queues)


def in_quarantine(other: Worker) -> None:
    other.state = "quarantined"
    other.beat()


def by_hand(other: Worker) -> None:
    other.before_us = 1
    other.beat()


def too_small(other: Worker) -> None:
    other.total = (0, 0, 0)
    other.beat()


@pytest.mark.parametrize("what", [gone, in_quarantine, by_hand, too_small])
def test_it_goes_to_the_same_worker_where_no_other_may_take_it(store: Store, what: object) -> None:
    first = Worker(store, owner="w1", gpus=1)
    other = Worker(store, owner="w2", gpus=1, slots=1)
    busy = new_run(store, gpus=1)
    assert other.work() == [busy]
    run_id = new_run(store, gpus=1)
    fail(first, run_id)
    assert first.work() == []
    what(other)  # type: ignore[operator]
    first.beat()
    assert first.work() == [run_id]
    record = store.get(run_id)
    assert (record.worker, record.reason) == ("w1", "on w1 again, for no other worker may take it")


def test_a_worker_that_is_started_anew_under_its_name_is_the_same(store: Store) -> None:
    fail(Worker(store, owner="w1"), run_id := new_run(store))
    other, successor = Worker(store, owner="w2"), Worker(store, owner="w1.later", name="w1")
    assert (successor.work(), other.work()) == ([], [run_id])


def test_a_crashed_run_avoids_the_worker_that_was_lost(store: Store) -> None:
    first = Worker(store, owner="w1")
    run_id = new_run(store)
    assert first.work() == [run_id]
    other = Worker(store, owner="w2")
    step = NextStep(Outcome(RunState.CRASHED, reason="gone"), retry_delay_s=0.0, avoid="w1", retried="crashed:1")
    crash(store, first.jobs.pop(run_id), step)
    assert (store.get(run_id).avoid, store.get(run_id).retried) == ("w1", "crashed:1")
    assert (first.work(), other.work()) == ([], [run_id])


def test_needs_and_counts_change_in_the_step_that_makes_a_run_wait_again(store: Store) -> None:
    worker = Worker(store, memory=20 << 30)
    run_id = new_run(store, memory="8G..64G", retry=("oom=5",))
    oom = Outcome(RunState.FAILED, reason="out of memory", phase="run", signal="SIGKILL", cause="oom")

    def fail_again() -> Record:
        record = worker.jobs[run_id]
        step = next_step(record, oom, parse_spec(record.spec))
        worker.end(run_id, step)
        # A repeated report changes nothing more.
        assert store.finish(record, step, owner=worker.owner)
        return store.get(run_id)

    assert worker.work() == [run_id]
    again = fail_again()
    assert (again.needs, again.retried, again.state) == (f"0:0:{16 << 30}", "oom:1", RunState.PENDING)
    assert again.reason == "retry 1 of 5 after oom with 16G of memory"
    assert worker.work() == [run_id]
    assert worker.jobs[run_id].retried == "oom:1", "its worker decides by it"
    assert fail_again().needs == f"0:0:{32 << 30}"
    assert worker.work() == [], "it has no room for so much"
    assert store.get(run_id).reason == "waiting for 32 GiB of memory"
    larger = Worker(store, owner="w2", memory=64 << 30)
    assert larger.work() == [run_id]
    larger.end(run_id)
    assert store.requeue(run_id, reason="once more") == ""
    assert (store.get(run_id).retried, store.get(run_id).needs) == ("", f"0:0:{32 << 30}")


def test_a_person_may_ask_for_another_worker(store: Store) -> None:
    first = Worker(store, owner="w1")
    fail(first, run_id := new_run(store), FAILED)
    other = Worker(store, owner="w2")
    assert store.requeue(run_id, reason="once more", elsewhere=True) == ""
    assert (first.work(), other.work()) == ([], [run_id])


def test_a_worker_that_fails_to_start_containers_leaves_them_to_others_and_takes_the_rest(store: Store) -> None:
    hurt, also_hurt = Worker(store, owner="w1"), Worker(store, owner="w2")
    for worker in (hurt, also_hurt):
        worker.unable = ("image",)
        worker.beat()
    sound = Worker(store, owner="w3", slots=1)
    container, other = new_run(store, image="busybox"), new_run(store, image="busybox")
    process = new_run(store)
    assert hurt.work() == [process]
    assert also_hurt.work() == []
    said = "not on w1, which fails to start such runs: waiting for another worker"
    assert store.get(other).reason == said
    assert sound.work() == [container]
    sound.end(container)
    assert (also_hurt.work(), hurt.work(), sound.work()) == ([], [], [other])
    sound.end(other)
    store.goodbye("w3", queues=["default"])
    alone = new_run(store, image="busybox")
    assert hurt.work() == [alone], "no other worker may take it"
