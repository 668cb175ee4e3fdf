"""What jobs tell, in Redis: merged, bounded, fenced by the attempt, and kept once however often it is sent."""

from __future__ import annotations

import json
from typing import Any

import pytest

from launch_worker.errors import UnknownRunError
from launch_worker.ids import new_run_id
from launch_worker.maintenance.passes import crash_stale_runs
from launch_worker.model.outcome import Outcome
from launch_worker.model.retry import NextStep
from launch_worker.model.run import Record
from launch_worker.model.spec import RunSpec
from launch_worker.model.states import RunState
from launch_worker.settings import Settings
from launch_worker.store import keys
from launch_worker.store.store import Store
from launch_worker.store.talk import MAX_SUMMARY_BYTES, TalkSoFar
from tests.conftest import wait_until
from tests.support.arrows import enlist_for
from tests.support.redis_client import redis_of


def running(store: Store, *, lease_s: float = 60.0, **spec: object) -> Record:
    run_id = new_run_id()
    store.create(run_id, RunSpec(command=("true",), **spec))  # type: ignore[arg-type]
    enlist_for(store, "o1", run_id)
    record, why = store.claim(run_id, 1, owner="o1", worker="w1", host="h", lease_s=lease_s)
    assert record is not None, why
    return record


def rows(store: Store, record: Record) -> list[dict[str, int]]:
    return [json.loads(row) for row in redis_of(store.url).lrange(keys.metrics(record.id), 0, -1)]


def test_a_summary_is_merged_name_by_name_and_keeps_its_digits(store: Store) -> None:
    record = running(store)
    assert store.tell(record.id, record.token, {"a": 1, "b": [], "c": 0.1234567890123456}, [], "", end=10)
    assert store.tell(record.id, record.token, {"a": 2, "d": {}}, [], "", end=20)
    summary = json.loads(store.get(record.id).summary)
    assert summary == {"a": 2, "b": [], "c": 0.1234567890123456, "d": {}}


def test_a_summary_is_bounded(store: Store) -> None:
    record = running(store)
    for number in range(10):
        store.tell(record.id, record.token, {f"x{number}": "y" * 20_000}, [], "", end=number + 1)
    assert 20_000 < len(store.get(record.id).summary) <= MAX_SUMMARY_BYTES


def test_the_newest_thousand_rows_are_kept(store: Store) -> None:
    record = running(store)
    for batch in range(3):
        some = [json.dumps({"_step": batch * 600 + number}) for number in range(600)]
        assert store.tell(record.id, record.token, None, some, "", end=batch + 1)
    assert [row["_step"] for row in rows(store, record)] == list(range(800, 1800))


def test_a_call_that_is_repeated_adds_nothing(store: Store) -> None:
    """Its reply was lost, or its worker was replaced."""
    record = running(store)
    for end in (10, 20, 20, 10):
        assert store.tell(record.id, record.token, {"end": end}, [json.dumps({"_step": end})], "", end=end)
    assert [row["_step"] for row in rows(store, record)] == [10, 20]
    assert json.loads(store.get(record.id).summary) == {"end": 20}
    assert store.talk_so_far(record.id, record.token) == TalkSoFar(20, {"end": 20}, 20)


def test_a_result_that_no_line_told_is_merged_where_nothing_else_is_new(store: Store) -> None:
    record = running(store)
    store.tell(record.id, record.token, {"a": 1}, [], "", end=10)
    store.tell(record.id, record.token, {"b": 1}, [], "", end=10)
    assert json.loads(store.get(record.id).summary) == {"a": 1, "b": 1}


def test_a_message_is_the_reason_while_the_run_runs_and_nobody_stops_it(store: Store) -> None:
    record = running(store)
    store.tell(record.id, record.token, None, [], "epoch 3 of 10", end=1)
    assert store.get(record.id).reason == "epoch 3 of 10"
    store.cancel(record.id, reason="by ada")
    store.tell(record.id, record.token, None, [], "epoch 4 of 10", end=2)
    assert store.get(record.id).reason == "stopping: by ada"


@pytest.mark.parametrize("late", ["another token", "ended"])
def test_an_attempt_that_is_not_the_runs_own_any_more_is_refused(store: Store, redis_client: Any, late: str) -> None:
    record = running(store)
    run_id, token = record.id, record.token
    if late == "another token":
        token -= 1
    else:
        store.finish(record, NextStep(Outcome(RunState.FINISHED, exit_code=0)), owner="o1")
    assert not store.tell(run_id, token, {"a": 1}, ["{}"], "late", end=10, preempting=True)
    assert store.get(record.id).summary == ""
    assert rows(store, record) == []


def test_talk_of_a_run_that_redis_does_not_know_is_refused_aloud(store: Store, redis_client: Any) -> None:
    """Its worker may have to write the record again first."""
    with pytest.raises(UnknownRunError):
        store.tell("nosuchrun", 1, {"a": 1}, ["{}"], "late", end=10)
    assert not redis_client.exists(keys.run("nosuchrun"))


def test_the_next_attempt_begins_anew_and_keeps_the_summary(store: Store, redis_client: Any) -> None:
    record = running(store, retries=1)
    store.tell(record.id, record.token, {"a": 1}, [json.dumps({"_step": 4})], "", end=100)
    store.finish(record, NextStep(Outcome(RunState.FAILED), retry_delay_s=0.0), owner="o1")
    seq = int(redis_client.hget(keys.run(record.id), "seq"))
    again, why = store.claim(record.id, seq, owner="o1", worker="w1", host="h", lease_s=60)
    assert again is not None, why
    assert store.talk_so_far(again.id, again.token) == TalkSoFar(0, {}, 4)
    assert store.tell(again.id, again.token, {"b": 1}, [], "", end=10)
    assert json.loads(store.get(record.id).summary) == {"a": 1, "b": 1}


def test_a_run_that_crashed_after_it_called_itself_preempted_goes_back_to_its_queue(
    store: Store, redis_client: Any
) -> None:
    """W17; W&B: a preempting run that stops sending heartbeats is queued again."""
    record = running(store, lease_s=0.001)
    store.tell(record.id, record.token, None, [], "", end=10, preempting=True)
    assert store.get(record.id).yields
    wait_until(lambda: store.stale(limit=1), what="its lease ran out")
    assert crash_stale_runs(store, Settings()) == 1
    back = store.get(record.id)
    assert (back.state, back.preemptions, back.yields) == (RunState.PENDING, 1, True)
    seq = int(redis_client.hget(keys.run(record.id), "seq"))
    again, why = store.claim(record.id, seq, owner="o1", worker="w1", host="h", lease_s=60)
    assert again is not None, why
    assert not again.yields


def test_a_run_that_crashed_without_a_word_stays_crashed(store: Store) -> None:
    record = running(store, lease_s=0.001)
    wait_until(lambda: store.stale(limit=1), what="its lease ran out")
    crash_stale_runs(store, Settings())
    assert store.get(record.id).state is RunState.CRASHED


def test_a_late_exit_is_noted_beside_the_end_and_gone_with_a_new_attempt(store: Store) -> None:
    record = running(store)
    step = NextStep(Outcome(RunState.FINISHED, exit_code=0))
    assert store.finish(record, step, owner="o1")
    assert store.get(record.id).late_exit == ""
    assert store.finish(record, NextStep(Outcome(RunState.FINISHED, exit_code=0, late_exit="SIGSEGV")), owner="o1")
    ended = store.get(record.id)
    assert (ended.state, ended.exit_code, ended.late_exit) == (RunState.FINISHED, 0, "SIGSEGV")
    assert not store.note_late_exit(record.id, record.token + 1, "1")
    store.requeue(record.id, reason="again")
    assert store.get(record.id).late_exit == ""


def test_retention_deletes_what_was_told(store: Store, redis_client: Any) -> None:
    record = running(store)
    store.tell(record.id, record.token, {"a": 1}, ["{}"], "", end=10)
    store.finish(record, NextStep(Outcome(RunState.FINISHED, exit_code=0)), owner="o1")
    assert store.retire(retention_s=0) == 1
    assert not list(redis_client.scan_iter(f"launch:run:{record.id}*"))
