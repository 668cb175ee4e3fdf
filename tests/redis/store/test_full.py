"""A Redis that is full takes no new runs; all that is there is read, goes on, is stopped, ends and is deleted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from launch_worker.api.client import Api
from launch_worker.errors import RedisFullError
from launch_worker.ids import new_run_id
from launch_worker.maintenance.passes import PASSES
from launch_worker.model.outcome import Outcome
from launch_worker.model.retry import NextStep
from launch_worker.model.schedule import Schedule
from launch_worker.model.spec import RunSpec
from launch_worker.model.states import RunState
from launch_worker.store import keys
from launch_worker.store.store import Store
from tests.support.arrows import (
    CRASHED,
    FINISHED,
    adopt,
    beat,
    claim,
    create,
    enlist_for,
    expire_lease,
    items,
    make_due,
    running,
    states,
    try_crash,
)

Fill = Callable[[], None]


@pytest.fixture
def fill(redis_client: Any) -> Iterator[Fill]:
    """Makes Redis full, until the test is over."""
    yield lambda: redis_client.config_set("maxmemory", "1")
    redis_client.config_set("maxmemory", "0")


def empty(redis_client: Any) -> None:
    redis_client.config_set("maxmemory", "0")


def a_sweep(api: Api, workers: int = 1) -> str:
    values = {"method": "grid", "program": __file__, "parameters": {"x": {"values": [1, 2]}}}
    return str(api.create_sweep(values, workers=workers).id)


def test_all_that_is_there_is_read(api: Api, store: Store, fill: Fill) -> None:
    sweep = a_sweep(api)
    record = running(store)
    store.tell(record.id, record.token, {"x": 1}, ['{"_step": 3, "x": 1}'], "half", end=9)
    store.append_log(record.id, 1, b"hello", offset=0)
    store.save_file(record.id, "f", b"1")
    store.configure("queue", "default", {"pool": "lab"})
    reads: list[Callable[[], object]] = [
        lambda: store.get(record.id),
        lambda: store.history(record.id),
        lambda: list(store.runs()),
        lambda: store.counts(),
        lambda: store.talk_so_far(record.id, record.token),
        lambda: store.metrics(record.id),
        lambda: store.log(record.id, 1),
        lambda: store.read_file(record.id, "f"),
        lambda: store.sweep(sweep),
        lambda: store.sweeps_of(store.sweep_ids()),
        lambda: store.trials(sweep, curves=True),
        lambda: store.inconsistencies(limit=10),
        lambda: store.held(),
        lambda: store.refused(),
        lambda: (store.queues(), store.lines(), store.pools(), store.pool_queues("lab"), store.workers_now()),
        lambda: store.schedules(),
        lambda: store.system(),
    ]
    before = [read() for read in reads]
    fill()
    assert [read() for read in reads] == before


def test_nothing_new_is_taken_and_that_is_said(api: Api, store: Store, fill: Fill) -> None:
    waits, ended = create(store), running(store)
    store.finish(ended, FINISHED)
    enlist_for(store, "owner1", waits)
    claiming: dict[str, Any] = {"owner": "owner1", "worker": "w", "host": "h", "lease_s": 30.0}
    before = items(store)
    fill()
    new: list[Callable[[], object]] = [
        lambda: store.create(new_run_id(), RunSpec(command=("true",))),
        lambda: a_sweep(api),
        lambda: store.requeue(ended.id, reason="once more"),
        lambda: store.claim(waits, 1, **claiming),
        lambda: store.claim_next(keys.queue_lists("default"), slot="1", nonce="n", **claiming),
    ]
    for call in new:
        with pytest.raises(RedisFullError, match=r"is full \(maxmemory\); raise its maxmemory or lower LAUNCH_RETENT"):
            call()
    assert (store.get(waits).state, items(store)) == (RunState.PENDING, before)


def test_a_running_attempt_goes_on_to_its_end(store: Store, redis_client: Any, fill: Fill) -> None:
    record = running(store)
    later = create(store)
    fill()
    assert beat(store, record)[0].word == "ok"
    assert store.phase(record, "pull", reason="pulls")
    assert store.started(record.id, record.token, pid=7)
    assert store.tell(record.id, record.token, {"x": 1}, ['{"x": 1}'], "half", end=9)
    assert store.append_log(record.id, 1, b"hello", offset=0)
    assert store.save_file(record.id, "f", b"1")
    assert store.finish(record, FINISHED)
    assert states(store, record.id) == [RunState.PENDING, RunState.RUNNING, RunState.FINISHED]
    assert (store.log(record.id, 1)[0].data, store.metrics(record.id)) == (b"hello", [{"x": 1}])
    assert json.loads(store.get(record.id).summary) == {"x": 1}
    empty(redis_client)
    assert claim(store, later).state is RunState.RUNNING


def test_a_failed_attempt_waits_for_its_next_one(store: Store, redis_client: Any, fill: Fill) -> None:
    record = running(store, retries=1)
    fill()
    again = NextStep(Outcome(RunState.FAILED, exit_code=3), retry_delay_s=0.0, retry_reason="retry 1 of 1")
    assert store.finish(record, again)
    assert store.get(record.id).state is RunState.PENDING
    empty(redis_client)
    assert claim(store, record.id).attempt == 2


def test_people_stop_what_they_like(api: Api, store: Store, fill: Fill) -> None:
    pending, record, array = create(store), running(store), api.submit({"command": ("true",), "array": "0-2"})
    sweep = api.sweep(a_sweep(api))
    fill()
    assert store.cancel(pending, reason="no more") == ("killed", "Killed")
    assert store.cancel(record.id, reason="no more") == ("requested", "Running")
    assert beat(store, record)[0].word == "cancel"
    assert store.finish(record, NextStep(Outcome(RunState.KILLED, reason="no more")))
    store.cancel(array.id, reason="no more")
    sweep.pause()
    sweep.cancel()
    assert sweep.state == "CANCELED"
    store.configure("queue", "default", {"paused": "1"})
    assert store.delete(pending, who="me", keep_s=60.0)


def test_what_became_of_a_dead_worker_s_attempts_is_found_out(store: Store, fill: Fill) -> None:
    held, adopted, stale = (running(store) for _ in range(3))
    expire_lease(store, stale.id)
    fill()
    assert store.hold(held.id, held.token, owner="owner1") == "held"
    assert store.release(held.id, held.token)
    assert adopt(store, adopted)[0] is not None
    assert [record.id for record in store.stale(limit=5)][:1] == [stale.id]
    assert try_crash(store, stale.id, stale.token, CRASHED)
    for record in (held, adopted):
        assert store.finish(record, FINISHED)


def test_the_passes_delete_what_is_old_though_schedules_and_sweeps_have_runs_to_make(
    api: Api, store: Store, redis_client: Any, fill: Fill
) -> None:
    """Else a full Redis would stay so."""
    ended, due, sweep = running(store), create(store, delay_s=60.0), a_sweep(api)
    schedule = Schedule(name="each", cron="* * * * *", given={"command": ("true",)}, missed="once")
    store.keep_schedule("each", schedule.to_json(), store.now_us() - 1)
    store.finish(ended, FINISHED)
    make_due(store, due)
    [trial] = store.trials(sweep)[0]
    store.finish(claim(store, trial.run_id), FINISHED)
    fill()
    for name, do in PASSES.items():
        assert store.begin_passes([name], every_s=0.0) == [name]
        do(store, api.settings)
    assert store.retire(retention_s=0.0) == 2
    assert store.peek(ended.id) is None
    assert due in dict(items(store))
    assert len(store.trials(sweep)[0]) == 1
    empty(redis_client)
    assert [PASSES[name](store, api.settings) for name in ("publish_due_runs", "advance_sweeps")] == [1, 1]
