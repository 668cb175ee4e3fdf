"""Every arrow of a run and every refusal, through the store on a real Redis; each test leaves consistent indexes."""

from __future__ import annotations

import json
import secrets
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from launch_worker.api.client import Api
from launch_worker.errors import InputError, UnknownRunError
from launch_worker.ids import new_run_id
from launch_worker.maintenance.passes import crash_stale_runs
from launch_worker.model.checks import PRIORITIES
from launch_worker.model.outcome import Outcome
from launch_worker.model.retry import NextStep
from launch_worker.model.run import Record
from launch_worker.model.spec import RunSpec
from launch_worker.model.states import RunState
from launch_worker.store import keys
from launch_worker.store.attempts import NOT_PLAIN
from launch_worker.store.redis.client import text
from launch_worker.store.store import Store
from launch_worker.store.submit import ConfigChanged, Created, New
from launch_worker.store.workers import Answer
from tests.support.arrows import (
    CRASHED,
    CRASHED_AGAIN,
    DEFAULT_LIST,
    FAILED,
    FAILED_AGAIN,
    FAILED_LATER,
    FINISHED,
    beat,
    claim,
    claim_next,
    counter,
    crash,
    create,
    create_many,
    expire_lease,
    image_of,
    items,
    listen_once,
    make_due,
    roll_back,
    running,
    snapshot,
    states,
    try_claim,
    try_crash,
)
from tests.support.store_checks import item_list

S = RunState


# -- what holds after every step -------------------------------------------------------------------------------------


# -- steps of a test ---------------------------------------------------------------------------------------------------


# -- create ------------------------------------------------------------------------------------------------------------


def test_a_created_run_is_pending_with_one_item_in_its_queue(store: Store) -> None:
    run_id = create(store, queue="gpu", priority="high", project="me/iris")
    record = store.get(run_id)
    assert (record.state, record.attempt, record.queue, record.project) == (S.PENDING, 0, "gpu", "me/iris")
    assert items(store, item_list("gpu", 3)) == [(run_id, 1)]
    assert states(store, run_id) == [S.PENDING]
    assert store.queues() == {"gpu": 1}


def test_creating_again_with_the_same_id_changes_nothing(store: Store) -> None:
    run_id = create(store)
    before = snapshot(store)
    assert store.create(run_id, RunSpec(command=("other",), queue="elsewhere")) == Created(False, 0)
    assert snapshot(store) == before
    claim(store, run_id)
    before = snapshot(store)
    assert store.create(run_id, RunSpec(command=("true",)))[0] is False
    assert snapshot(store) == before


@pytest.mark.parametrize("priority", PRIORITIES)
def test_each_priority_has_its_own_list_first_in_first_out(store: Store, priority: str) -> None:
    """W12."""
    ids = [create(store, priority=priority) for _ in range(3)]
    assert items(store, item_list("default", PRIORITIES[priority])) == [(run_id, 1) for run_id in ids]


def test_creating_tells_how_many_live_workers_consume_the_queue(store: Store) -> None:
    """P2."""
    assert store.create(new_run_id(), RunSpec(command=("true",))) == Created(True, 0)
    beat(store, owner="owner1")
    beat(store, owner="owner2")
    assert store.create(new_run_id(), RunSpec(command=("true",))) == Created(True, 2)
    store.goodbye("owner1", queues=["default"])
    assert store.create(new_run_id(), RunSpec(command=("true",))) == Created(True, 1)


def test_a_name_with_quotes_and_backslashes_makes_a_readable_item(store: Store, redis_client: Any) -> None:
    create(store, name="'\"\\ ; <b> é ü")
    element = json.loads(redis_client.lindex(DEFAULT_LIST, 0))
    assert element["headers"]["shadow"] == "'\"\\ ; <b> é ü"


def test_a_delayed_run_has_no_item_until_it_is_due(store: Store) -> None:
    """P11."""
    run_id = create(store, delay_s=60.0)
    assert items(store) == []
    due_at = store.get(run_id).due_at
    assert due_at is not None
    assert 59e6 < due_at - store.now_us() <= 60e6
    assert store.publish_due() == (0, due_at, False)
    assert items(store) == []


# -- claim -------------------------------------------------------------------------------------------------------------


def test_a_claim_makes_the_run_running_and_numbers_the_attempt(store: Store) -> None:
    """P1."""
    record = running(store)
    assert (record.state, record.attempt, record.worker, record.host) == (S.RUNNING, 1, "w@owner1", "h")
    assert record.started_at is not None
    assert store.get(record.id) == record
    assert states(store, record.id) == [S.PENDING, S.RUNNING]


def test_every_attempt_gets_the_next_number_and_a_larger_token(store: Store) -> None:
    record = running(store)
    for attempt in range(2, 6):
        assert store.finish(record, FAILED_AGAIN)
        after = claim(store, record.id)
        assert after.attempt == attempt
        assert after.token > record.token
        record = after


def test_a_claim_with_an_old_dispatch_number_is_refused(store: Store) -> None:
    """Section 7: a message delivered twice."""
    record = running(store)
    store.finish(record, FAILED_AGAIN)
    before = snapshot(store)
    refused, why = try_claim(store, record.id, seq=1)
    assert (refused, why) == (None, "the item is older than the run's latest dispatch")
    assert snapshot(store) == before
    assert claim(store, record.id).attempt == 2


def test_a_doubled_old_item_does_not_start_a_delayed_retry_before_its_time(store: Store) -> None:
    """P11, section 7: a message delivered twice."""
    record = running(store)
    store.finish(record, FAILED_LATER)
    refused, _ = try_claim(store, record.id, seq=1)
    assert refused is None
    assert store.get(record.id).due_at is not None


def test_a_repeated_claim_whose_reply_was_lost_gets_the_same_answer(store: Store) -> None:
    run_id = create(store)
    first = claim(store, run_id, nonce="n1")
    before = snapshot(store)
    assert try_claim(store, run_id, seq=1, nonce="n1") == (first, "")
    assert snapshot(store) == before


def test_a_claim_that_is_repeated_after_the_crash_gives_the_run_back_to_its_queue(store: Store) -> None:
    """No job of it has begun, and what the attempt held may be another run's."""
    run_id, other = (create(store, concurrency_key="k") for _ in range(2))
    first = claim(store, run_id, nonce="n1")
    crash(store, first)
    assert claim(store, other).state is S.RUNNING
    again, why = try_claim(store, run_id, seq=1, nonce="n1")
    assert (again, why) == (None, "its lease was over before the claim was answered")
    assert states(store, run_id) == [S.PENDING, S.RUNNING, S.CRASHED, S.PENDING]
    record = store.get(run_id)
    # Parked again, and not even one retry is used up.
    assert (record.attempt, record.first_attempt, record.reason) == (1, 2, "limit 1 of key k reached")
    store.finish(store.get(other), FINISHED)
    assert claim(store, run_id).attempt == 2


def test_a_claim_that_is_repeated_after_a_crash_of_a_cancelled_run_leaves_it_crashed(store: Store) -> None:
    run_id = create(store)
    first = claim(store, run_id, nonce="n1")
    store.cancel(run_id, reason="stop")
    crash(store, first)
    assert try_claim(store, run_id, seq=1, nonce="n1")[0] is None
    assert store.get(run_id).state is S.CRASHED


def test_a_claim_repeated_after_the_run_was_given_to_another_attempt_is_refused(store: Store) -> None:
    run_id = create(store)
    first = claim(store, run_id, nonce="n1")
    crash(store, first, CRASHED_AGAIN)
    assert try_claim(store, run_id, seq=1, nonce="n1")[0] is None
    second = claim(store, run_id, owner="owner2", nonce="n2")
    assert try_claim(store, run_id, seq=1, nonce="n1") == (None, "the run is Running")
    assert store.get(run_id) == second


@pytest.mark.parametrize("state", [S.RUNNING, S.FINISHED, S.FAILED, S.KILLED, S.CRASHED])
def test_a_run_that_is_not_pending_cannot_be_claimed(store: Store, state: RunState) -> None:
    """P7, P19: delivered twice, or after the end."""
    record = running(store)
    if state is S.CRASHED:
        crash(store, record)
    elif state is not S.RUNNING:
        store.finish(record, NextStep(Outcome(state)))
    before = snapshot(store)
    assert try_claim(store, record.id, owner="owner2") == (None, f"the run is {state}")
    assert snapshot(store) == before


def test_a_run_that_does_not_exist_cannot_be_claimed(store: Store, redis_client: Any) -> None:
    """W15."""
    assert try_claim(store, "0" * 15, seq=1) == (None, "there is no such run")
    assert redis_client.keys("*") == [keys.consumers("default").encode()]


def test_of_many_racing_claims_one_wins(store: Store) -> None:
    """P7."""
    run_id = create(store)
    won: list[Record] = []
    barrier = threading.Barrier(8)

    def race(owner: str) -> None:
        barrier.wait()
        record, _ = try_claim(store, run_id, seq=1, owner=owner)
        if record is not None:
            won.append(record)

    threads = [threading.Thread(target=race, args=(f"owner{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [record.attempt for record in won] == [1]


def test_the_next_run_of_some_lists_is_popped_and_claimed_in_one_step(store: Store) -> None:
    low, high = create(store, priority="low"), create(store, priority="high")
    found = [claim_next(store) for _ in range(3)]
    assert [record and (record.id, record.state, record.attempt) for record in found] == [
        (high, S.RUNNING, 1),
        (low, S.RUNNING, 1),
        None,
    ]


def test_a_repeated_claim_of_the_next_run_gets_the_same_one_and_pops_no_other(store: Store) -> None:
    create(store)
    second = create(store)
    first, again = (claim_next(store, nonce="same") for _ in range(2))
    assert first is not None
    assert first == again
    other = claim_next(store, slot="2")
    assert other is not None
    assert other.id == second
    # Another slot's claim in between does not matter.
    assert claim_next(store, nonce="same") == first


def test_outdated_and_cancelled_items_are_passed_over(store: Store, redis_client: Any) -> None:
    killed = create(store)
    store.cancel(killed, reason="by test")
    wanted = create(store)
    assert redis_client.llen(DEFAULT_LIST) == 2
    record = claim_next(store)
    assert record is not None
    assert record.id == wanted
    assert store.get(killed).state is S.KILLED


@pytest.mark.parametrize("foreign", ["garbage", '{"headers": {"task": "other"}, "body": "W1siYSIsIDFdXQ=="}'])
def test_what_is_no_runs_item_is_left_to_the_brokers_client_with_all_behind_it(
    store: Store, redis_client: Any, foreign: str
) -> None:
    redis_client.lpush(DEFAULT_LIST, foreign)
    behind = create(store)
    assert claim_next(store) is None
    assert redis_client.llen(DEFAULT_LIST) == 2
    assert store.get(behind).state is S.PENDING


def test_nothing_is_popped_while_claims_are_held_after_a_restore(store: Store, redis_client: Any) -> None:
    create(store)
    redis_client.set(keys.HOLD, 1, px=60_000)
    assert claim_next(store) is None
    redis_client.delete(keys.HOLD)
    assert claim_next(store) is not None


@pytest.mark.parametrize("options", [{"gpus": 1}, {"cpus": 2.0}, {"memory": 1 << 30}, {"scheduler": True}])
def test_a_plain_claim_leaves_a_run_that_is_not_plain_where_it_is(store: Store, options: dict[str, Any]) -> None:
    run_id = create(store, **options)
    behind = create(store)
    before = snapshot(store)
    who: dict[str, Any] = {"owner": "owner1", "worker": "w", "host": "h", "lease_s": 30.0, "plain": True}
    assert store.claim(run_id, 1, **who) == (None, NOT_PLAIN)
    assert store.claim_next(keys.queue_lists("default"), slot="1", nonce="n", **who) == (None, NOT_PLAIN)
    assert snapshot(store) == before
    assert store.get(behind).state is S.PENDING


def test_plain_claims_count_the_slots_down_in_whatever_order_they_come(store: Store, redis_client: Any) -> None:
    beat(store)
    redis_client.hset("launch:free:owner1", "slots", 2)
    for _ in range(2):
        create(store)
        who: dict[str, Any] = {"owner": "owner1", "worker": "w", "host": "h", "lease_s": 30.0, "plain": True}
        record, _ = store.claim_next(keys.queue_lists("default"), slot="1", nonce=secrets.token_hex(8), **who)
        assert record is not None
    assert redis_client.hget("launch:free:owner1", "slots") == b"0"


def test_a_damaged_queue_does_not_hide_the_others(store: Store, redis_client: Any) -> None:
    create(store)
    redis_client.set("broken", "text")
    record = claim_next(store, "broken", *keys.queue_lists("default"))
    assert record is not None


def test_a_claim_clears_what_the_last_attempt_left(store: Store) -> None:
    record = running(store)
    store.started(record.id, record.token, pid=4242)
    store.finish(record, FAILED_AGAIN)
    again = claim(store, record.id)
    assert (again.exit_code, again.signal, again.phase, again.message, again.pid) == (None, "", "", "", None)


# -- started, heartbeat ------------------------------------------------------------------------------------------------


def test_the_process_is_noted_for_the_running_attempt_only(store: Store) -> None:
    """P1."""
    record = running(store)
    assert store.started(record.id, record.token, pid=4242)
    assert store.get(record.id).pid == 4242
    assert not store.started(record.id, record.token - 1, pid=1)
    store.finish(record, FINISHED)
    assert not store.started(record.id, record.token, pid=1)
    assert store.get(record.id).pid == 4242


def test_a_heartbeat_renews_the_lease(store: Store) -> None:
    record = running(store)
    expire_lease(store, record.id)
    assert [stale.id for stale in store.stale(limit=10)] == [record.id]
    assert beat(store, record) == [Answer("ok")]
    assert store.stale(limit=10) == []
    assert not try_crash(store, record.id, record.token, CRASHED)


def test_a_heartbeat_answers_each_run_for_itself(store: Store) -> None:
    well, stopped, ended, lost = (running(store) for _ in range(4))
    store.cancel(stopped.id, reason="stop: now", grace_s=1.5)
    store.finish(ended, FINISHED)
    crash(store, lost, CRASHED_AGAIN)
    assert beat(store, well, stopped, ended, lost) == [
        Answer("ok"),
        Answer("cancel", grace_s=1.5, reason="stop: now"),
        Answer("ended"),
        Answer("superseded"),
    ]


def test_a_cancel_without_a_grace_leaves_the_jobs_own(store: Store) -> None:
    record = running(store)
    store.cancel(record.id, reason="r")
    assert beat(store, record) == [Answer("cancel", grace_s=None, reason="r")]


def test_a_heartbeat_of_a_superseded_attempt_neither_revives_nor_renews(store: Store) -> None:
    """X6."""
    first = running(store)
    crash(store, first, CRASHED_AGAIN)
    second = claim(store, first.id, owner="owner2")
    expire_lease(store, first.id)
    before = snapshot(store)
    assert beat(store, first) == [Answer("superseded")]
    assert snapshot(store) == before
    assert [stale.id for stale in store.stale(limit=10)] == [second.id]


def test_a_crashed_attempt_that_was_not_superseded_goes_back_to_running(store: Store) -> None:
    """X7."""
    record = running(store)
    crash(store, record)
    assert beat(store, record) == [Answer("ok")]
    assert states(store, record.id) == [S.PENDING, S.RUNNING, S.CRASHED, S.RUNNING]
    assert store.get(record.id).ended_at is None
    assert store.finish(record, FINISHED)
    assert store.get(record.id).state is S.FINISHED


def test_an_attempt_that_reported_its_crash_itself_is_not_revived_by_a_heartbeat_under_way(store: Store) -> None:
    """The guard ended the job at the lease's end; the worker's next heartbeat may cross the report."""
    record = running(store)
    store.finish(record, CRASHED)
    assert beat(store, record) == [Answer("ended")]
    assert store.get(record.id).state is S.CRASHED


def test_an_attempt_that_reported_its_crash_itself_is_not_revived_by_a_repeated_claim(store: Store) -> None:
    run_id = create(store)
    record = claim(store, run_id, nonce="n1")
    store.finish(record, CRASHED)
    assert try_claim(store, run_id, seq=1, nonce="n1") == (None, "the run is Crashed")
    assert store.get(run_id).state is S.CRASHED


def test_a_revived_attempt_still_hears_of_its_cancel(store: Store) -> None:
    """X7."""
    record = running(store)
    store.cancel(record.id, reason="stop")
    crash(store, record)
    assert beat(store, record)[0].word == "cancel"
    assert store.check_cancellations() == 1


def test_a_heartbeat_registers_the_worker_and_tells_the_next_due_time(store: Store) -> None:
    run_id = create(store, delay_s=30.0)
    said = {"worker": "w", "owner": "o", "host": "h", "pid": 1, "slots": 1, "running": 0, "state": "running"}
    said |= {"queues": ["default", "gpu"], "problem": None}
    pulse = store.heartbeat(
        [], owner="o", worker="w", lease_s=30.0, gone_s=60.0, description=said, queues=["default", "gpu"]
    )
    assert pulse.answers == []
    assert pulse.next_due == store.get(run_id).due_at
    assert pulse.pass_age_s > 1e6, "no pass ever began"
    assert store.workers() == [said]
    assert (store.consumers("default"), store.consumers("gpu")) == (1, 1)
    store.goodbye("o", queues=["default", "gpu"])
    assert store.workers() == []
    assert (store.consumers("default"), store.consumers("gpu")) == (0, 0)


# -- finish ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(S.FINISHED, exit_code=0),
        Outcome(S.FAILED, reason="ended by SIGSEGV", phase="run", message="m", signal="SIGSEGV"),
        Outcome(S.KILLED, reason="cancelled by me", signal="SIGTERM"),
        Outcome(S.CRASHED, reason="its worker could not renew the lease", signal="SIGKILL"),
    ],
)
def test_an_attempt_ends_in_the_state_that_its_worker_saw(store: Store, outcome: Outcome) -> None:
    record = running(store)
    assert store.finish(record, NextStep(outcome))
    after = store.get(record.id)
    assert (after.state, after.reason, after.phase) == (outcome.state, outcome.reason, outcome.phase)
    assert (after.exit_code, after.signal, after.message) == (outcome.exit_code, outcome.signal, outcome.message)
    assert after.ended_at is not None
    assert states(store, record.id) == [S.PENDING, S.RUNNING, outcome.state]


def test_a_repeated_report_is_harmless(store: Store) -> None:
    record = running(store)
    assert store.finish(record, FAILED)
    before = snapshot(store)
    assert store.finish(record, FAILED)
    assert snapshot(store) == before
    assert counter(store, "superseded_reports") == 0


def test_a_repeated_report_with_a_retry_makes_one_new_attempt(store: Store) -> None:
    record = running(store)
    assert store.finish(record, FAILED_AGAIN)
    before = snapshot(store)
    assert store.finish(record, FAILED_AGAIN)
    assert snapshot(store) == before
    assert items(store)[-1] == (record.id, 2)


def test_a_late_report_of_a_superseded_attempt_is_refused_counted_and_changes_nothing(store: Store) -> None:
    """X6."""
    first = running(store)
    crash(store, first, CRASHED_AGAIN)
    for expected in (1, 2):
        before = snapshot(store)
        assert not store.finish(first, FINISHED)
        assert snapshot(store) == before
        assert counter(store, "superseded_reports") == expected
        if expected == 1:
            claim(store, first.id, owner="owner2")


@pytest.mark.parametrize("state", [S.FINISHED, S.FAILED, S.KILLED, S.CRASHED])
def test_a_crashed_attempt_that_was_not_superseded_reports_its_true_end(store: Store, state: RunState) -> None:
    """X7, P33: the worker comes back first with its report, not with a heartbeat."""
    record = running(store)
    crash(store, record)
    assert store.finish(record, NextStep(Outcome(state, reason="its own")))
    after = store.get(record.id)
    assert after.state is state
    assert after.ended_at is not None


def test_a_failed_attempt_with_a_retry_is_failed_then_pending_in_its_history(store: Store) -> None:
    """P36."""
    record = running(store)
    assert store.finish(record, FAILED_AGAIN)
    history = store.history(record.id)
    assert [(entry.state, entry.attempt) for entry in history] == [
        (S.PENDING, 0),
        (S.RUNNING, 1),
        (S.FAILED, 1),
        (S.PENDING, 1),
    ]
    assert [entry.reason for entry in history[2:]] == ["exit code 3", "retry 1 of 1"]
    assert store.get(record.id).reason == "retry 1 of 1"
    assert items(store)[-1] == (record.id, 2)


def test_a_delayed_retry_waits_in_due_and_is_published_in_time(store: Store, redis_client: Any) -> None:
    record = running(store)
    redis_client.delete(DEFAULT_LIST)
    store.finish(record, FAILED_LATER)
    after = store.get(record.id)
    assert (after.state, after.reason) == (S.PENDING, "retry 1 of 1 in 1 m")
    assert after.due_at is not None
    assert items(store) == []
    make_due(store, record.id)
    assert store.publish_due() == (1, 0, False)
    assert [run_id for run_id, _ in items(store)] == [record.id]
    assert claim(store, record.id).attempt == 2


def test_a_huge_message_is_cut(store: Store) -> None:
    record = running(store)
    store.finish(record, NextStep(Outcome(S.FAILED, message="é" * 100_000)))
    assert store.get(record.id).message == "é" * 8000


# -- cancel ------------------------------------------------------------------------------------------------------------


def test_a_pending_run_is_killed_at_once_and_its_item_starts_nothing(store: Store) -> None:
    """P19."""
    run_id = create(store)
    assert store.cancel(run_id, reason="no") == ("killed", "Killed")
    record = store.get(run_id)
    assert (record.state, record.reason, record.attempt) == (S.KILLED, "no", 0)
    [(item_id, seq)] = items(store)
    assert try_claim(store, item_id, seq=seq) == (None, "the run is Killed")
    assert store.publish_lost(grace_s=0) == 0


def test_a_scheduled_run_is_killed_at_once_and_never_published(store: Store) -> None:
    run_id = create(store, delay_s=60.0)
    assert store.cancel(run_id, reason="no") == ("killed", "Killed")
    make_due(store, run_id)
    assert store.publish_due() == (0, 0, False)


def test_the_owner_of_a_running_run_is_told_at_once(store: Store) -> None:
    record = running(store)
    heard = listen_once(store, keys.orders_channel("owner1"))
    assert store.cancel(record.id, reason="stop", grace_s=2.0) == ("requested", "Running")
    assert json.loads(heard.get(timeout=5.0)) == (
        {"order": "cancel", "id": record.id, "token": str(record.token), "grace_us": "2000000", "reason": "stop"}
        | {"preempt": False}
    )
    after = store.get(record.id)
    assert (after.state, after.reason) == (S.RUNNING, "stopping: stop")
    assert after.cancel_at is not None


def test_a_second_cancel_shortens_the_grace_and_keeps_the_first_time(store: Store) -> None:
    record = running(store)
    store.cancel(record.id, reason="first", grace_s=60.0)
    asked_at = store.get(record.id).cancel_at
    assert store.cancel(record.id, reason="second", grace_s=0.0) == ("requested", "Running")
    assert store.get(record.id).cancel_at == asked_at
    assert beat(store, record) == [Answer("cancel", grace_s=0.0, reason="second")]


@pytest.mark.parametrize("state", [S.FINISHED, S.FAILED, S.KILLED, S.CRASHED])
def test_a_final_run_cannot_be_cancelled(store: Store, state: RunState) -> None:
    """P28."""
    record = running(store)
    store.finish(record, NextStep(Outcome(state)))
    before = snapshot(store)
    assert store.cancel(record.id, reason="late") == ("final", state.value)
    assert snapshot(store) == before


def test_an_unknown_run_cannot_be_cancelled_or_requeued(store: Store, redis_client: Any) -> None:
    for call in (store.cancel, store.requeue):
        with pytest.raises(UnknownRunError, match="there is no run"):
            call("0" * 15, reason="r")
    with pytest.raises(UnknownRunError):
        store.get("0" * 15)
    assert redis_client.keys("*") == []


def test_a_cancelled_run_that_fails_is_not_retried(store: Store) -> None:
    record = running(store)
    store.cancel(record.id, reason="stop")
    assert store.finish(record, FAILED_AGAIN)
    after = store.get(record.id)
    assert (after.state, after.reason) == (S.FAILED, "exit code 3; not retried, because it was cancelled")


def test_a_cancelled_run_that_crashes_is_not_retried(store: Store) -> None:
    record = running(store)
    store.cancel(record.id, reason="stop")
    crash(store, record, CRASHED_AGAIN)
    after = store.get(record.id)
    assert (after.state, after.reason) == (S.CRASHED, "heartbeats stopped while it was being cancelled")


def test_owners_are_told_again_until_the_run_has_ended(store: Store) -> None:
    record = running(store)
    store.cancel(record.id, reason="stop")
    assert (store.check_cancellations(), store.check_cancellations()) == (1, 1)
    store.finish(record, NextStep(Outcome(S.KILLED)))
    assert store.check_cancellations() == 0


# -- crash, requeue ----------------------------------------------------------------------------------------------------


def test_a_run_crashes_only_when_its_lease_ran_out(store: Store) -> None:
    """P30."""
    record = running(store)
    before = snapshot(store)
    assert not try_crash(store, record.id, record.token, CRASHED)
    assert snapshot(store) == before
    expire_lease(store, record.id)
    assert try_crash(store, record.id, record.token, CRASHED)
    assert store.get(record.id).state is S.CRASHED
    assert not try_crash(store, record.id, record.token, CRASHED), "once"
    assert states(store, record.id).count(S.CRASHED) == 1


def test_a_crash_of_another_attempt_is_refused(store: Store) -> None:
    first = running(store)
    crash(store, first, CRASHED_AGAIN)
    claim(store, first.id)
    expire_lease(store, first.id)
    assert not try_crash(store, first.id, first.token, CRASHED)
    assert store.get(first.id).state is S.RUNNING


def test_a_crashed_run_with_retries_goes_to_a_new_attempt(store: Store) -> None:
    """P36."""
    record = running(store)
    crash(store, record, CRASHED_AGAIN)
    assert states(store, record.id) == [S.PENDING, S.RUNNING, S.CRASHED, S.PENDING]
    assert claim(store, record.id, owner="owner2").attempt == 2


def test_a_lease_without_a_running_run_is_cleared_away(store: Store, redis_client: Any) -> None:
    redis_client.zadd(keys.LEASES, {"ghost": 0})
    assert store.stale(limit=10) == []
    assert not try_crash(store, "ghost", 1, CRASHED)
    assert redis_client.zcard(keys.LEASES) == 0


@pytest.mark.parametrize("state", [S.FINISHED, S.FAILED, S.KILLED, S.CRASHED])
def test_a_final_run_can_be_requeued_as_a_new_attempt(store: Store, state: RunState) -> None:
    record = running(store)
    store.cancel(record.id, reason="stop")
    store.finish(record, NextStep(Outcome(state, exit_code=3, signal="SIGTERM", phase="run")))
    assert store.requeue(record.id, reason="once more") == ""
    after = store.get(record.id)
    assert (after.state, after.reason, after.first_attempt) == (S.PENDING, "once more", 2)
    assert (after.exit_code, after.signal, after.phase, after.cancel_at, after.pid) == (None, "", "", None, None)
    again = claim(store, record.id)
    assert again.attempt == 2
    assert beat(store, again) == [Answer("ok")], "the old cancel is not for the new attempt"


def test_a_run_that_was_killed_while_pending_can_be_requeued(store: Store) -> None:
    run_id = create(store)
    store.cancel(run_id, reason="no")
    assert store.requeue(run_id, reason="yes after all") == ""
    assert try_claim(store, run_id, seq=1)[0] is None
    assert claim(store, run_id).attempt == 1


def test_a_run_that_has_not_ended_cannot_be_requeued(store: Store) -> None:
    run_id = create(store)
    before = snapshot(store)
    assert store.requeue(run_id, reason="r") == "Pending"
    assert snapshot(store) == before
    claim(store, run_id)
    before = snapshot(store)
    assert store.requeue(run_id, reason="r") == "Running"
    assert snapshot(store) == before


def test_the_silent_worker_of_a_crashed_and_requeued_run_is_superseded(store: Store) -> None:
    """X6."""
    first = running(store)
    crash(store, first)
    store.requeue(first.id, reason="once more")
    assert beat(store, first) == [Answer("superseded")]
    assert not store.finish(first, FINISHED)
    assert store.get(first.id).state is S.PENDING


# -- a Redis that lost its newest writes -------------------------------------------------------------------------------


def test_a_run_that_was_rolled_back_to_pending_is_running_again_at_its_workers_heartbeat(store: Store) -> None:
    """Section 7: Redis restored from a snapshot; the attempt that is alive is the truth."""
    run_id = create(store)
    image = image_of(store)
    record = claim(store, run_id)
    roll_back(store, image)
    assert store.get(run_id).state is S.PENDING
    assert beat(store, record) == [Answer("ok")]
    after = store.get(run_id)
    assert (after.state, after.attempt, after.token) == (S.RUNNING, 1, record.token)
    assert try_claim(store, run_id, owner="owner2")[0] is None
    assert store.finish(record, FINISHED)
    assert store.get(run_id).state is S.FINISHED


def test_a_run_that_was_rolled_back_to_pending_takes_its_workers_report(store: Store) -> None:
    run_id = create(store)
    image = image_of(store)
    record = claim(store, run_id)
    roll_back(store, image)
    assert store.finish(record, FAILED)
    after = store.get(run_id)
    assert (after.state, after.attempt, after.exit_code) == (S.FAILED, 1, 3)
    assert try_claim(store, run_id, seq=1)[0] is None


def test_a_rolled_back_run_that_was_given_to_another_worker_supersedes_the_first(store: Store) -> None:
    run_id = create(store)
    image = image_of(store)
    first = claim(store, run_id)
    roll_back(store, image)
    second = claim(store, run_id, owner="owner2")
    assert second.token > first.token
    assert beat(store, first) == [Answer("superseded")]
    assert not store.finish(first, FINISHED)
    assert beat(store, second, owner="owner2") == [Answer("ok")]


def test_a_run_that_redis_lost_is_written_again_by_its_worker(store: Store, redis_client: Any) -> None:
    record = running(store, project="me/iris", tags=("a",), env={"A": "b"})
    redis_client.flushall()
    assert beat(store, record) == [Answer("unknown")]
    assert store.restore(record, lease_s=30.0, owner="owner1")
    assert not store.restore(record, lease_s=30.0, owner="owner1"), "once"
    after = store.get(record.id)
    assert replace(after, reason="") == record
    assert beat(store, record) == [Answer("ok")]
    assert store.finish(record, FAILED_AGAIN)
    assert claim(store, record.id).attempt == 2


def test_the_end_of_a_run_that_redis_lost_is_written_too(store: Store, redis_client: Any) -> None:
    record = running(store)
    redis_client.flushall()
    assert store.finish(record, FAILED)
    assert store.finish(record, FAILED)
    after = store.get(record.id)
    assert (after.state, after.exit_code, after.attempt) == (S.FAILED, 3, 1)
    assert states(store, record.id) == [S.PENDING, S.RUNNING, S.FAILED]


# -- due and lost ------------------------------------------------------------------------------------------------------


def test_due_runs_are_published_oldest_first_and_within_the_limit(store: Store) -> None:
    """P11."""
    ids = [create(store, delay_s=60.0 + number) for number in range(4)]
    for run_id in ids[:3]:
        make_due(store, run_id)
    assert store.publish_due(limit=2) == (2, 1, False)
    count, next_due, _ = store.publish_due(limit=2)
    assert (count, next_due) == (1, store.get(ids[3]).due_at)
    assert sorted(run_id for run_id, _ in items(store)) == sorted(ids[:3])
    assert [store.get(run_id).due_at for run_id in ids[:3]] == [None] * 3


def test_scheduling_wakes_the_agents(store: Store) -> None:
    heard = listen_once(store, keys.DUE)
    run_id = create(store, delay_s=5.0)
    assert heard.get(timeout=5.0) == str(store.get(run_id).due_at)


def test_runs_whose_list_was_emptied_are_published_again(store: Store, redis_client: Any) -> None:
    """Section 7: a lost message is found and published again."""
    ids = [create(store, priority=priority) for priority in PRIORITIES]
    for step in keys.PRIORITY_STEPS:
        redis_client.delete(item_list("default", step))
    assert store.publish_lost(grace_s=0) == 4
    for run_id, step in zip(ids, keys.PRIORITY_STEPS, strict=True):
        assert items(store, item_list("default", step)) == [(run_id, 2)]
    assert store.publish_lost(grace_s=0) == 0
    assert counter(store, "published_again") == 4


def test_what_was_dispatched_within_the_grace_is_left_alone(store: Store, redis_client: Any) -> None:
    create(store)
    redis_client.delete(DEFAULT_LIST)
    assert store.publish_lost(grace_s=10.0) == 0
    assert items(store) == []


def test_behind_a_backlog_only_the_lost_runs_are_published_again(store: Store, redis_client: Any) -> None:
    ids = [create(store) for _ in range(6)]
    for _ in range(2):
        redis_client.rpop(DEFAULT_LIST)
    assert store.publish_lost(grace_s=0) == 2
    assert items(store) == [*((run_id, 2) for run_id in ids[:2]), *((run_id, 1) for run_id in ids[2:])], "their places"
    assert store.publish_lost(grace_s=0) == 0


def test_a_lost_run_from_the_middle_is_found_once_the_older_items_are_taken(store: Store, redis_client: Any) -> None:
    ids = [create(store) for _ in range(3)]
    redis_client.lrem(DEFAULT_LIST, 1, redis_client.lindex(DEFAULT_LIST, 1))
    assert store.publish_lost(grace_s=0) == 0, "nobody can know yet"
    claim(store, items(store)[0][0])
    redis_client.rpop(DEFAULT_LIST)
    assert store.publish_lost(grace_s=0) == 1
    assert items(store) == [(ids[1], 2), (ids[2], 1)]


@pytest.mark.parametrize("garbage", [b"\xff\x00garbage", b"{}", b"", b'{"launch_dispatched_at": "x"}', b"[" * 5000])
def test_garbage_as_the_oldest_element_doubles_nothing(store: Store, redis_client: Any, garbage: bytes) -> None:
    """Section 7: malformed items."""
    run_id = create(store)
    redis_client.rpush(DEFAULT_LIST, garbage)
    assert store.publish_lost(grace_s=0) == 0
    redis_client.rpop(DEFAULT_LIST)
    assert store.publish_lost(grace_s=0) == 0
    redis_client.rpop(DEFAULT_LIST)
    assert store.publish_lost(grace_s=0) == 1
    assert items(store) == [(run_id, 2)]


def test_a_run_that_was_taken_but_not_yet_claimed_is_executed_once(store: Store, redis_client: Any) -> None:
    """Section 7: one execution, also when a slow claim made its item look lost."""
    run_id = create(store)
    redis_client.rpop(DEFAULT_LIST)
    assert store.publish_lost(grace_s=0) == 1
    assert try_claim(store, run_id, seq=1)[0] is None
    assert claim(store, run_id).attempt == 1


def test_an_item_that_was_taken_and_put_back_is_the_next_to_be_taken(store: Store, redis_client: Any) -> None:
    """X8: a worker that goes away returns what it did not start."""
    ids = [create(store) for _ in range(3)]
    redis_client.rpop(DEFAULT_LIST)
    assert store.put_back(ids[0], 1)
    assert items(store) == [(ids[0], 2), (ids[1], 1), (ids[2], 1)]
    assert store.publish_lost(grace_s=0) == 0
    assert try_claim(store, ids[0], seq=1)[0] is None
    assert claim(store, ids[0]).attempt == 1


def test_an_outdated_item_is_not_put_back(store: Store) -> None:
    pending, ended, later = create(store), running(store), running(store)
    store.finish(ended, FINISHED)
    store.finish(later, FAILED_LATER)
    before = snapshot(store)
    for run_id, seq in ((pending, 0), (ended.id, 1), (later.id, 1), ("0" * 15, 1)):
        assert not store.put_back(run_id, seq)
    assert snapshot(store) == before


def test_running_and_ended_runs_are_never_published_again(store: Store, redis_client: Any) -> None:
    running(store)
    ended = running(store)
    store.finish(ended, FINISHED)
    create(store, delay_s=60.0)
    redis_client.delete(DEFAULT_LIST)
    assert store.publish_lost(grace_s=0) == 0


def test_the_limit_bounds_one_call(store: Store, redis_client: Any) -> None:
    for _ in range(5):
        create(store)
    redis_client.delete(DEFAULT_LIST)
    assert store.publish_lost(grace_s=0, limit=2) == 2


def test_a_damaged_queue_key_is_set_aside_and_the_queue_goes_on(store: Store, redis_client: Any) -> None:
    """P3."""
    redis_client.set("gpu", "not a list")
    redis_client.hset(item_list("gpu", 6), "a", "b")
    other = create(store, queue="cpu")
    store.heal(["gpu", "cpu"])
    assert [text(key) for key in redis_client.keys("*gpu*") if not text(key).startswith("launch:damaged:")] == []
    aside = redis_client.keys("launch:damaged:gpu*")
    assert len(aside) == 2
    assert all(redis_client.ttl(key) > 86400 for key in aside)
    assert sorted(entry["queue"] for entry in store.refused()) == ["gpu", item_list("gpu", 6)]
    assert items(store, item_list("cpu", 6)) == [(other, 1)]
    run_id = create(store, queue="gpu")
    assert items(store, item_list("gpu", 6)) == [(run_id, 1)]


def test_a_run_is_taken_into_a_damaged_queue_too(store: Store, redis_client: Any) -> None:
    """P3: the producer meets the damage first."""
    redis_client.set(DEFAULT_LIST, "not a list")
    run_id = create(store)
    assert items(store) == [(run_id, 1)]


def test_runs_that_waited_in_a_damaged_queue_are_published_again(store: Store, redis_client: Any) -> None:
    """P3."""
    run_id = create(store)
    redis_client.set(DEFAULT_LIST, "not a list")
    assert store.publish_lost(grace_s=0) == 1
    assert items(store) == [(run_id, 2)]


# -- passes, refused items, retention, logs ----------------------------------------------------------------------------


def test_two_beats_begin_a_pass_once(store: Store) -> None:
    """Section 7: two beats."""
    assert store.begin_passes(["p"], every_s=5.0) == ["p"]
    assert store.begin_passes(["p", "another"], every_s=5.0) == ["another"]
    assert store.begin_passes(["p", "another"], every_s=5.0) == []
    assert store.begin_passes(["p"], every_s=0) == ["p"]
    assert set(store.pass_ages_s()) == {"p", "another"}


def test_a_pass_is_not_done_soon_after_nobody_could_do_it(store: Store, redis_client: Any) -> None:
    assert store.begin_passes(["crash", "other"], every_s=5.0, gaps_s={"crash": 20.0}) == ["other"]
    assert set(store.pass_ages_s()) == {"crash", "other"}
    assert store.begin_passes(["crash"], every_s=0, gaps_s={"crash": 20.0}) == []
    redis_client.delete("launch:settling")
    assert store.begin_passes(["crash"], every_s=0, gaps_s={"crash": 20.0}) == ["crash"]


def test_a_clock_that_was_set_back_does_not_stop_the_passes(store: Store, redis_client: Any) -> None:
    redis_client.hset(keys.PASSES, "p", store.now_us() + 3_600_000_000)
    assert store.begin_passes(["p"], every_s=5.0) == ["p"]


@pytest.mark.parametrize("item", [b"\xff\xfe\x00", b"", b"x" * 1_000_000, '{"é": "ü"}'.encode()])
def test_a_malformed_item_is_kept_aside_for_reading(store: Store, item: bytes) -> None:
    store.refuse("gpu", "it is not JSON", item)
    [kept] = store.refused()
    assert (kept["queue"], kept["reason"]) == ("gpu", "it is not JSON")
    assert len(kept["item"]) <= 8000
    assert counter(store, "refused_items") == 1


def test_what_is_kept_aside_is_bounded(store: Store) -> None:
    for number in range(1010):
        store.refuse("gpu", f"reason {number}", b"x")
    kept = store.refused(limit=2000)
    assert (len(kept), kept[0]["reason"]) == (1000, "reason 1009")


def test_retiring_deletes_every_key_of_a_run(store: Store, redis_client: Any) -> None:
    record = running(store, project="me/iris", queue="gpu")
    redis_client.delete(item_list("gpu", 6))
    store.append_log(record.id, 1, b"one", offset=0)
    store.finish(record, FAILED_AGAIN)
    redis_client.delete(item_list("gpu", 6))
    again = claim(store, record.id)
    store.append_log(record.id, 2, b"two", offset=0)
    store.cancel(record.id, reason="stop")
    store.finish(again, FINISHED)
    assert store.retire(retention_s=3600) == 0
    assert store.retire(retention_s=0) == 1
    # What its queue had counted stays in the sums over all queues.
    kept = {keys.counts("_deleted").encode()}
    assert set(redis_client.keys("*")) == kept
    with pytest.raises(UnknownRunError):
        store.append_log(record.id, 2, b"late", offset=3)
    assert set(redis_client.keys("*")) == kept


def test_retiring_leaves_runs_that_have_not_ended(store: Store) -> None:
    pending, alive, ended = create(store), running(store), running(store)
    store.finish(ended, FINISHED)
    assert store.retire(retention_s=0) == 1
    assert {record.id for record in store.runs()} == {pending, alive.id}


def test_retiring_is_bounded_and_takes_the_oldest_first(store: Store) -> None:
    ended = [running(store) for _ in range(3)]
    for record in ended:
        store.finish(record, FINISHED)
    assert store.retire(retention_s=0, limit=2) == 2
    assert [record.id for record in store.runs()] == [ended[2].id]


def test_a_worker_that_vanished_is_cleared_away(store: Store, redis_client: Any) -> None:
    beat(store, owner="ghost")
    create(store)
    redis_client.zadd(keys.WORKERS, {"ghost": 1})
    redis_client.zadd(keys.consumers("default"), {"ghost": 1})
    assert store.consumers("default") == 0
    store.retire(retention_s=60)
    store.publish_lost(grace_s=0)
    assert redis_client.zcard(keys.WORKERS) == redis_client.zcard(keys.consumers("default")) == 0


def test_the_log_keeps_what_comes_after_keep_from(store: Store) -> None:
    run_id = create(store)
    entries = [store.append_log(run_id, 1, b"%d" % number, offset=number) for number in range(5)]
    store.append_log(run_id, 1, b"5", offset=5, keep_from=entries[3])
    assert [(chunk.offset, chunk.data) for chunk in store.log(run_id, 1)] == [(3, b"3"), (4, b"4"), (5, b"5")]


def test_each_attempt_has_its_own_log(store: Store) -> None:
    """P36."""
    run_id = create(store)
    store.append_log(run_id, 1, b"one\xff\x00", offset=0)
    store.append_log(run_id, 2, b"two", offset=0)
    assert [chunk.data for chunk in store.log(run_id, 1)] == [b"one\xff\x00"]
    assert [chunk.data for chunk in store.log(run_id, 2)] == [b"two"]


def test_a_log_chunk_that_is_sent_again_after_a_lost_reply_is_kept_once(store: Store) -> None:
    """`connect` promises: only idempotent scripts are sent, for a call that timed out may have been executed."""
    run_id = create(store)
    store.append_log(run_id, 1, b"abc", offset=0)
    store.append_log(run_id, 1, b"def", offset=3)
    store.append_log(run_id, 1, b"def", offset=3)
    assert b"".join(chunk.data for chunk in store.log(run_id, 1)) == b"abcdef"


# -- listings ----------------------------------------------------------------------------------------------------------


def test_runs_are_listed_newest_first_through_any_index(store: Store) -> None:
    first = create(store, queue="a", project="p/x")
    second = create(store, queue="b", project="p/x")
    third = create(store, queue="a")
    claim(store, second)
    assert [record.id for record in store.runs()] == [third, second, first]
    assert [record.id for record in store.runs(newest_first=False)] == [first, second, third]
    assert [record.id for record in store.runs({"queue": {"a"}})] == [third, first]
    assert [record.id for record in store.runs({"project": {"p/x"}})] == [second, first]
    assert [record.id for record in store.runs({"state": {S.PENDING}, "project": {"p/x"}})] == [first]
    assert list(store.runs({"queue": {"a"}, "state": {S.RUNNING}})) == []


def test_a_long_listing_has_every_run_once(store: Store) -> None:
    ids = [create(store) for _ in range(250)]
    assert [record.id for record in store.runs()] == ids[::-1]
    assert [record.id for record in store.runs(newest_first=False)] == ids


def test_a_deleted_or_damaged_record_does_not_hide_the_others(store: Store, redis_client: Any) -> None:
    """P41."""
    good = create(store)
    for run_id, value in (("gone", None), ("wrong", "a string"), ("empty", {"state": "??"})):
        redis_client.zadd(keys.RUNS, {run_id: store.now_us()})
        if isinstance(value, str):
            redis_client.set(keys.run(run_id), value)
        elif value:
            redis_client.hset(keys.run(run_id), mapping=value)
    assert good in {record.id for record in store.runs()}
    for run_id in ("gone", "wrong", "empty"):
        redis_client.zrem(keys.RUNS, run_id)
        redis_client.delete(keys.run(run_id))


def test_many_runs_are_created_in_one_round_trip_and_answered_one_by_one(store: Store) -> None:
    store.configure("queue", "set", {"config": '{"retries": 1}'})
    there, new = create(store), new_run_id()
    plain = RunSpec(command=("true",))
    runs = [
        New(new, plain),
        New(there, plain),
        New(new_run_id(), RunSpec(command=("true",), queue="set")),
        New(new_run_id(), RunSpec(command=("true",), after=(new_run_id(),))),
        New(new_run_id(), plain, delay_s=60.0),
    ]
    first, second, third, fourth, fifth = create_many(store, runs)
    assert (first, second, fifth) == (Created(True, 0), Created(False, 0), Created(True, 0))
    assert isinstance(third, ConfigChanged)
    assert third.configs.queue_config == '{"retries": 1}'
    assert isinstance(fourth, InputError)
    assert [run_id for run_id, _ in items(store)] == [there, new]
    [refused] = create_many(store, [New(new_run_id(), RunSpec(command=("a",), queue="b"))], if_queue_known=True)
    assert isinstance(refused, InputError)
    assert create_many(store, runs[:2]) == [Created(False, 0)] * 2, "a repeated call changes nothing"


def test_many_runs_are_called_crashed_at_once(store: Store) -> None:
    records = [claim(store, create(store), lease_s=0.001) for _ in range(3)]
    alive = claim(store, create(store), lease_s=60)
    time.sleep(0.01)
    calls = [(record.id, record.token, CRASHED) for record in (*records, alive)]
    assert store.crash_many([*calls, ("ghost", 1, CRASHED)]) == [True, True, True, False, False]
    assert store.crash_many(calls) == [False] * 4


def test_one_damaged_run_keeps_no_other_from_being_called_crashed(store: Store, redis_client: Any, api: Api) -> None:
    """It is Crashed too, and nobody tries it again."""
    damaged, *others = [claim(store, create(store, retries=1)) for _ in range(60)]
    for record in (damaged, *others):
        expire_lease(store, record.id)
    redis_client.hdel(keys.run(damaged.id), "queue")
    told: list[str] = []
    assert crash_stale_runs(store, api.settings, on_end=lambda record, _: told.append(record.id)) == 60
    assert sorted(told) == sorted(record.id for record in (damaged, *others))
    assert {store.get(record.id).state for record in others} == {S.PENDING}
    assert store.get(damaged.id).state is S.CRASHED
    assert "its queue has no valid name" in store.get(damaged.id).reason
    assert store.stale(limit=100) == []
    redis_client.flushdb()


def test_a_stale_lease_of_no_record_is_dropped(store: Store, redis_client: Any) -> None:
    redis_client.zadd(keys.LEASES, {"ghost": 1, "wrong": 1})
    redis_client.set(keys.run("wrong"), "a string")
    assert store.stale(limit=10) == []
    assert redis_client.zcard(keys.LEASES) == 0
    redis_client.delete(keys.run("wrong"))


# -- when it ended -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_crashed", [False, True])
def test_a_run_ended_when_its_job_did_and_not_when_that_was_told(
    store: Store, redis_client: Any, is_crashed: bool
) -> None:
    record = running(store)
    redis_client.hincrby(keys.run(record.id), "started_at", -100_000_000)
    if is_crashed:
        crash(store, record)
    now = store.now_us()
    assert store.finish(record, FINISHED, ended_ago_s=20)
    ended_at = store.get(record.id).ended_at
    assert ended_at is not None
    assert 0 <= ended_at - (now - 20_000_000) < 5_000_000


@pytest.mark.parametrize(("ago_s", "is_start"), [(1e9, True), (-50.0, False), (None, False)])
def test_no_run_ended_before_it_started_or_later_than_now(store: Store, ago_s: float | None, is_start: bool) -> None:
    record = running(store)
    assert store.finish(record, FINISHED, ended_ago_s=ago_s)
    found = store.get(record.id)
    assert found.ended_at is not None
    assert found.started_at is not None
    assert found.started_at <= found.ended_at <= store.now_us()
    assert (found.ended_at == found.started_at) is is_start
