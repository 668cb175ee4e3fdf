"""The counters behind metrics: exact over every arrow, of constant size, and gone with their queue."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest

from launch_worker.model.spec import RunSpec
from launch_worker.model.states import RunState
from launch_worker.store import keys
from launch_worker.store.counts import BOUNDS, MOST_COUNTED, OTHER_QUEUES, Counts
from launch_worker.store.figures import Figures, QueueFigures
from launch_worker.store.redis.library import LUA
from launch_worker.store.store import Store
from launch_worker.store.submit import New
from tests.support.arrows import (
    CRASHED,
    CRASHED_AGAIN,
    FAILED,
    FAILED_AGAIN,
    FINISHED,
    beat,
    claim,
    crash,
    create,
    create_many,
    enlist,
    expire_lease,
    running,
)

S = RunState


def of_queue(store: Store, name: str = "default") -> QueueFigures:
    return next(queue for queue in store.figures().queues if queue.name == name)


def unfinished(figures: Figures) -> int:
    """What the counters say of the runs that have not ended."""
    counts = figures.counts
    return counts.submitted() + sum(counts.reopened(state) - counts.ended(state) for state in S)


def test_the_buckets_of_scripts_and_python_are_the_same() -> None:
    lua = Path(LUA, "words", "counts.lua").read_text()
    pairs = re.findall(r"\{([0-9.e]+), '([0-9.]+)'\}", lua)
    assert tuple(text for _, text in pairs) == BOUNDS
    assert all(float(us) == float(text) * 1e6 for us, text in pairs)
    assert f"MOST_COUNTED = {MOST_COUNTED}\n" in lua


@pytest.mark.parametrize(
    ("step", "state"), [(FINISHED, S.FINISHED), (FAILED, S.FAILED), (CRASHED, S.CRASHED)], ids=lambda value: str(value)
)
def test_an_end_is_counted_once_however_often_it_is_reported(store: Store, step: Any, state: RunState) -> None:
    record = running(store)
    if state is S.CRASHED:
        expire_lease(store, record.id)
        crash(store, record, step)
    else:
        assert store.finish(record, step)
        store.finish(record, step)
    counts = of_queue(store).counts
    assert counts.submitted() == 1
    assert {each: counts.ended(each) for each in S if counts.ended(each)} == {state: 1}
    assert sum(counts.attempts(state).values()) == 1
    assert sum(counts.waits().values()) == 1
    assert counts.ran_s(state) > 0


def test_a_retry_is_an_attempt_that_ended_and_no_end_of_the_run(store: Store) -> None:
    record = running(store)
    store.finish(record, FAILED_AGAIN)
    counts = of_queue(store).counts
    assert (sum(counts.attempts(S.FAILED).values()), counts.retried(S.FAILED), counts.ended(S.FAILED)) == (1, 1, 0)
    again = claim(store, record.id)
    expire_lease(store, record.id)
    crash(store, again, CRASHED_AGAIN)
    counts = of_queue(store).counts
    assert (counts.retried(S.CRASHED), counts.ended(S.CRASHED)) == (1, 0)
    store.finish(claim(store, record.id), FINISHED)
    counts = of_queue(store).counts
    assert (counts.ended(S.FINISHED), sum(counts.waits().values())) == (1, 3)
    assert unfinished(store.figures()) == 0


def test_a_run_that_comes_back_from_its_end_is_counted_as_reopened(store: Store) -> None:
    record = running(store)
    expire_lease(store, record.id)
    crash(store, record, CRASHED)
    assert [answer.word for answer in beat(store, record)] == ["ok"]
    counts = of_queue(store).counts
    assert (counts.ended(S.CRASHED), counts.reopened(S.CRASHED)) == (1, 1)
    assert unfinished(store.figures()) == 1
    store.finish(record, FAILED)
    store.requeue(record.id, reason="")
    counts = of_queue(store).counts
    assert (counts.ended(S.FAILED), counts.reopened(S.FAILED)) == (1, 1)
    assert unfinished(store.figures()) == 1


def test_a_pending_run_that_is_cancelled_ends_without_an_attempt(store: Store) -> None:
    store.cancel(create(store), reason="no more")
    counts = of_queue(store).counts
    assert counts.ended(S.KILLED) == 1
    assert sum(counts.attempts(S.KILLED).values()) == 0
    assert unfinished(store.figures()) == 0


def test_waiting_begins_when_a_run_could_start(store: Store, redis_client: Any) -> None:
    delayed = create(store, delay_s=3600.0)
    # Its time came a minute ago.
    due = store.now_us() - 60_000_000
    redis_client.zadd(keys.DUE, {delayed: due})
    redis_client.hset(keys.run(delayed), "due_at", due)
    store.publish_due()
    claim(store, delayed)
    counts = of_queue(store).counts
    assert counts.waits()["300"] == sum(counts.waits().values()) == 1
    assert 60 <= counts.waited_s() < 120


def test_what_the_counters_say_of_unfinished_runs_holds_over_any_sequence(store: Store) -> None:
    rng = random.Random(7)
    enlist(store, "w", "default", "other")
    ids: list[str] = []
    for _ in range(300):
        what = rng.choice(("create", "create", "claim", "end", "end", "cancel", "retry", "crash", "revive", "delete"))
        run_id = rng.choice(ids) if ids else ""
        record = store.get(run_id) if run_id else None
        state = record.state if record else None
        if what == "create" or record is None:
            ids.append(create(store, queue=rng.choice(("default", "other"))))
        elif what == "claim" and state is S.PENDING:
            claim(store, run_id)
        elif what == "end" and state in (S.RUNNING, S.CRASHED):
            store.finish(record, rng.choice((FINISHED, FAILED, FAILED_AGAIN)))
        elif what == "cancel" and state is S.PENDING:
            store.cancel(run_id, reason="")
        elif what == "retry" and state not in (S.PENDING, S.RUNNING):
            store.requeue(run_id, reason="")
        elif what == "crash" and state is S.RUNNING:
            expire_lease(store, run_id)
            crash(store, record, rng.choice((CRASHED, CRASHED_AGAIN)))
        elif what == "revive" and state is S.CRASHED:
            beat(store, record)
        elif what == "delete" and state is not S.RUNNING:
            store.delete(run_id, who="ada", keep_s=60.0)
            ids.remove(run_id)
    figures = store.figures()
    assert unfinished(figures) == figures.runs[S.PENDING] + figures.runs[S.RUNNING]


def test_counters_of_thousands_of_queues_take_the_room_of_few(store: Store, redis_client: Any) -> None:
    store.configure("queue", "admins", {"limit": "3"})
    for start in range(0, 300, 100):
        create_many(
            store,
            [New(f"{n:015}", RunSpec(command=("true",), queue=f"q{n}")) for n in range(start, start + 100)],
        )
    store.configure("queue", "late", {"limit": "3"})
    assert redis_client.scard(keys.COUNTED) == MOST_COUNTED + 1
    assert len(redis_client.keys(keys.counts("*"))) == MOST_COUNTED
    figures = store.figures()
    assert figures.queue_count == 302
    assert len(figures.queues) == MOST_COUNTED + 2
    assert {"admins", "late"} < {queue.name for queue in figures.queues}
    other = of_queue(store, OTHER_QUEUES)
    assert other.counts.submitted() == other.ready == 300 - (MOST_COUNTED - 1)
    assert figures.counts.submitted() == 300


def test_a_deleted_queue_takes_its_counters_along_and_no_sum_falls(store: Store, redis_client: Any) -> None:
    record = running(store)
    store.finish(record, FINISHED)
    before = store.figures().counts
    assert not store.delete_queue("default")
    assert not redis_client.exists(keys.counts("default"))
    after = store.figures()
    assert "default" not in {queue.name for queue in after.queues}
    assert after.counts.values == before.values


def test_a_damaged_counter_keeps_no_run_from_its_end(store: Store, redis_client: Any) -> None:
    record = running(store)
    redis_client.delete(keys.counts("default"))
    redis_client.set(keys.counts("default"), "broken")
    assert store.finish(record, FINISHED)
    assert store.get(record.id).state is S.FINISHED
    assert isinstance(of_queue(store).counts, Counts)


def test_the_oldest_ready_run_and_what_is_late_are_seen(store: Store, redis_client: Any) -> None:
    create(store, delay_s=60.0)
    assert of_queue(store).ready == 0
    run_id = create(store, priority="low")
    redis_client.zadd(keys.line("default"), {run_id: 3 * keys.LEVEL + store.now_us() - 100_000_000})
    assert of_queue(store).ready == 1
    assert 100 <= of_queue(store).oldest_s < 160
    record = running(store)
    assert store.figures().leases_late == 0
    expire_lease(store, record.id)
    assert store.figures().leases_late == 1
