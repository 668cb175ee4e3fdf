"""Runs that wait for a limit, for what a worker has, for other runs, for a time: the store on a real Redis."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import pytest

from launch_worker.api.client import Api
from launch_worker.errors import InputError, RefusedError
from launch_worker.ids import new_run_id
from launch_worker.model.outcome import Outcome
from launch_worker.model.retry import NextStep
from launch_worker.model.run import Record
from launch_worker.model.spec import RunSpec
from launch_worker.model.states import RunState
from launch_worker.store import keys
from launch_worker.store.redis.client import text
from launch_worker.store.store import Store
from tests.conftest import wait_until
from tests.support.arrows import (
    CRASHED,
    CRASHED_AGAIN,
    FAILED,
    FAILED_AGAIN,
    FINISHED,
    crash,
    create,
    expire_lease,
    items,
    make_due,
    seq_of,
    states,
    try_crash,
)
from tests.support.store_checks import item_list
from tests.support.workers import PREEMPTED, Worker

S = RunState


def reason(store: Store, run_id: str) -> str:
    return store.get(run_id).reason


# -- limits ------------------------------------------------------------------------------------------------------------


def test_a_queue_never_runs_more_than_its_limit_and_the_next_one_goes_when_a_place_is_free(store: Store) -> None:
    """P13."""
    store.configure("queue", "default", {"limit": "2"})
    ids = [create(store) for _ in range(4)]
    first, second = Worker(store), Worker(store, owner="w2")
    assert first.work() + second.work() == ids[:2]
    assert reason(store, ids[2]) == "limit 2 of queue default reached"
    first.end(ids[0])
    assert reason(store, ids[2]) == ""
    assert second.work() == [ids[2]]
    first.end(ids[1])
    assert first.work() == [ids[3]]


@pytest.mark.parametrize("step", [CRASHED, CRASHED_AGAIN])
def test_all_places_of_runs_that_crash_at_once_come_free(store: Store, step: NextStep) -> None:
    store.configure("queue", "default", {"limit": "60"})
    for _ in range(130):
        create(store)
    worker = Worker(store, slots=60)
    assert len(worker.work()) == 60
    for record in worker.jobs.values():
        expire_lease(store, record.id)
    assert store.crash_many([(record.id, record.token, step) for record in worker.jobs.values()]) == [True] * 60
    assert len(Worker(store, owner="w2", slots=70).work()) == 60


def test_a_parked_run_keeps_its_place_and_its_priority(store: Store) -> None:
    """P14."""
    store.configure("queue", "default", {"limit": "1"})
    worker = Worker(store)
    running = create(store)
    worker.work()
    low, medium, late, high = (create(store, priority=p) for p in ("low", "medium", "medium", "high"))
    worker.work()
    order = []
    for _ in range(4):
        worker.end(running)
        (running,) = worker.work()
        order.append(running)
    assert order == [high, medium, late, low]


def test_many_parked_runs_block_nobody_behind_them(store: Store) -> None:
    """Issue 5: 300 parked at the head."""
    worker = Worker(store, slots=2)
    held = create(store, concurrency_key="gpu-licence")
    worker.work()
    parked = [create(store, concurrency_key="gpu-licence") for _ in range(300)]
    free = create(store)
    assert worker.work() == [free]
    assert {reason(store, run_id) for run_id in parked} == {"limit 1 of key gpu-licence reached"}
    worker.end(held)
    assert worker.work() == [parked[0]]


def test_a_key_counts_across_queues_and_each_run_brings_its_own_limit(store: Store) -> None:
    worker = Worker(store, "a", "b")
    one = create(store, queue="a", concurrency_key="k")
    assert worker.work() == [one]
    strict = create(store, queue="b", concurrency_key="k")
    wide = create(store, queue="b", concurrency_key="k", limit_key=3)
    assert worker.work() == [wide], "a strict one at the head does not block it"
    worker.end(one)
    assert worker.work() == []
    worker.end(wide)
    assert worker.work() == [strict]


def test_an_array_runs_so_many_at_once(store: Store) -> None:
    worker = Worker(store, slots=8)
    ids = [create(store, array="a1", array_index=at, array_limit=2) for at in range(5)]
    assert worker.work() == ids[:2]
    worker.end(ids[0])
    assert worker.work() == [ids[2]]


def test_a_pool_counts_all_its_queues(store: Store) -> None:
    for queue in ("a", "b"):
        store.configure("queue", queue, {"pool": "lab"})
    store.configure("pool", "lab", {"limit": "2"})
    worker = Worker(store, "a", "b")
    ids = [create(store, queue=queue) for queue in ("a", "b", "b", "a")]
    running = worker.work()
    assert running == [ids[0], ids[3]]
    assert reason(store, ids[1]) == "limit 2 of pool lab reached"
    assert store.running_in("pool", "lab") == 2
    worker.end(ids[0])
    assert worker.work() == [ids[1]]


def test_a_place_in_a_pool_goes_to_the_first_queue_and_not_to_the_one_that_freed_it(store: Store) -> None:
    store.configure("queue", "urgent", {"pool": "lab", "rank": "1"})
    store.configure("queue", "bulk", {"pool": "lab", "rank": "2"})
    store.configure("pool", "lab", {"limit": "1"})
    urgent, bulk = Worker(store, "urgent", owner="u"), Worker(store, "bulk", owner="b")
    first = create(store, queue="bulk")
    assert bulk.work() == [first]
    others = [create(store, queue="bulk") for _ in range(3)]
    wanted = create(store, queue="urgent")
    assert bulk.work() == urgent.work() == []
    bulk.end(first)
    assert bulk.work() == []
    assert urgent.work() == [wanted]
    urgent.end(wanted)
    assert bulk.work() == others[:1]


def test_a_queue_that_nobody_serves_keeps_no_place_of_its_pool(store: Store) -> None:
    for queue, rank in (("dead", "1"), ("alive", "2")):
        store.configure("queue", queue, {"pool": "lab", "rank": rank})
    store.configure("pool", "lab", {"limit": "1"})
    worker = Worker(store, "alive")
    first = create(store, queue="alive")
    worker.work()
    dead, alive = create(store, queue="dead"), create(store, queue="alive")
    worker.work()
    worker.end(first)
    assert worker.work() == [alive]
    worker.end(alive)
    other = Worker(store, "dead", owner="w2")
    other.beat()
    assert other.work() == [dead]


def test_a_paused_queue_starts_nothing_and_goes_on_where_it_was(store: Store) -> None:
    """P17."""
    ids = [create(store) for _ in range(3)]
    worker = Worker(store, slots=9)
    store.configure("queue", "default", {"paused": "1"})
    assert worker.work() == []
    ids.append(create(store))
    assert {reason(store, run_id) for run_id in ids} == {"queue paused"}
    assert store.queues() == {"default": 4}
    store.configure("queue", "default", {"paused": None})
    assert worker.work() == ids


def test_more_runs_than_one_call_lets_go_are_all_let_go(store: Store) -> None:
    store.configure("queue", "default", {"paused": "1"})
    ids = [create(store) for _ in range(1100)]
    store.configure("queue", "default", {"paused": None})
    assert [run_id for run_id, _ in items(store)] == ids


def test_a_higher_limit_lets_runs_go_at_once(store: Store) -> None:
    store.configure("queue", "default", {"limit": "1"})
    worker = Worker(store, slots=9)
    ids = [create(store) for _ in range(5)]
    worker.work()
    store.configure("queue", "default", {"limit": "3"})
    assert worker.work() == ids[1:3]
    store.configure("queue", "default", {"limit": None})
    assert worker.work() == ids[3:]


def test_a_queue_that_leaves_its_pool_waits_for_it_no_more(store: Store) -> None:
    store.configure("queue", "default", {"pool": "lab"})
    store.configure("pool", "lab", {"paused": "1"})
    run_id = create(store)
    assert reason(store, run_id) == "pool lab paused"
    store.configure("queue", "default", {"pool": None})
    assert Worker(store).work() == [run_id]
    assert store.pool_queues("lab") == []


def test_a_cancelled_run_gives_its_turn_to_the_next(store: Store) -> None:
    """P16."""
    store.configure("queue", "default", {"limit": "1"})
    worker = Worker(store)
    ids = [create(store) for _ in range(3)]
    worker.work()
    worker.end(ids[0])
    store.cancel(ids[1], reason="not needed")
    assert worker.work() == [ids[2]]


def test_a_retry_goes_behind_those_that_waited(store: Store) -> None:
    store.configure("queue", "default", {"limit": "1"})
    worker = Worker(store)
    first, second = create(store), create(store)
    worker.work()
    worker.end(first, FAILED_AGAIN)
    assert worker.work() == [second]
    worker.end(second)
    assert worker.work() == [first]


def test_a_crashed_run_frees_its_place_and_takes_it_again_when_it_proves_alive(store: Store) -> None:
    store.configure("queue", "default", {"limit": "1"})
    worker = Worker(store)
    first, second = create(store), create(store)
    worker.work()
    crash(store, worker.jobs[first])
    other = Worker(store, owner="w2")
    assert other.work() == [second]
    worker.beat()
    assert store.get(first).state is S.RUNNING
    assert store.running_in("queue", "default") == 2, "it runs, whatever the limit"


def test_a_place_in_line_is_told(store: Store) -> None:
    """Issue 5: `runs --pending` shows it."""
    low = create(store, priority="low")
    ids = [create(store) for _ in range(3)]
    high = create(store, priority="high")
    later = create(store, delay_s=60)
    places = [store.place_in_line(store.get(run_id)) for run_id in (high, *ids, low, later)]
    assert places == [1, 2, 3, 4, 5, None]
    assert [record.id for record in store.line("default", limit=10)] == [high, *ids, low, later]


def test_a_queue_is_deleted_only_when_nothing_waits_in_it(store: Store) -> None:
    store.configure("queue", "sim", {"limit": "3", "pool": "lab"})
    assert not store.configure("queue", "sim", {"limit": "4"}, create=True)
    later = create(store, queue="sim", delay_s=60)
    assert store.delete_queue("sim") == "a run waits in it"
    assert store.delete_pool("lab") == "a queue is in it"
    store.cancel(later, reason="x")
    assert store.delete_queue("sim") == ""
    assert store.queue_names() == []
    assert store.delete_pool("lab") == ""
    assert store.pools() == []
    create(store, queue="sim")
    assert store.queues() == {"sim": 1}, "the next run makes it again"


def test_a_woken_run_goes_before_those_that_came_after_it(store: Store) -> None:
    worker = Worker(store, slots=9)
    held = create(store, concurrency_key="k")
    worker.work()
    before = create(store)
    parked = create(store, concurrency_key="k")
    after = [create(store) for _ in range(5)]
    worker.end(held)
    assert [run_id for run_id, _ in items(store)] == [before, parked, *after]
    assert store.publish_lost(grace_s=0) == 0, "the list is in the order that tells what is lost"


def test_runs_that_fit_nowhere_do_not_use_up_the_places_of_a_limit(store: Store) -> None:
    store.configure("queue", "default", {"limit": "1"})
    worker = Worker(store, gpus=1, slots=9)
    first = create(store)
    worker.work()
    for _ in range(5):
        create(store, gpus=2)
    then = create(store)
    worker.work()
    worker.end(first)
    assert worker.work() == [then]


def test_one_damaged_record_in_a_line_stops_nobody(store: Store, redis_client: Any) -> None:
    """P41."""
    worker = Worker(store)
    first = create(store, concurrency_key="k")
    worker.work()
    damaged, then = create(store, concurrency_key="k"), create(store, concurrency_key="k")
    after = create(store, after=(first,))
    worker.work()
    queue = redis_client.hget(keys.run(damaged), "queue")
    redis_client.hdel(keys.run(damaged), "queue")
    worker.end(first)
    assert sorted(worker.work()) == sorted([then, after])
    store.publish_due()
    assert (store.get(damaged).state, "damaged" in reason(store, damaged)) == (S.FAILED, True)
    assert "damaged" in store.refused()[0]["reason"]
    # Only so that the test's own look at all records can count it.
    redis_client.hset(keys.run(damaged), "queue", queue)
    redis_client.zadd(keys.runs_by("queue", text(queue)), {damaged: store.get(damaged).created_at})


def test_nobody_submits_to_a_workers_own_queue(store: Store) -> None:
    with pytest.raises(InputError, match="belongs to the system"):
        create(store, queue=keys.direct_queue("host.1.abc"))


# -- what a worker has -------------------------------------------------------------------------------------------------


def test_devices_are_given_whole_and_once(store: Store) -> None:
    """X1."""
    worker = Worker(store, gpus=2)
    ids = [create(store, gpus=1) for _ in range(3)]
    assert worker.work() == ids[:2]
    assert [worker.jobs[run_id].gpus for run_id in ids[:2]] == [("0",), ("1",)]
    assert reason(store, ids[2]) == "waiting for 1 GPU"
    worker.end(ids[0])
    assert worker.work() == [ids[2]]
    assert worker.jobs[ids[2]].gpus == ("0",)


def test_one_that_fits_nowhere_waits_and_blocks_nobody(store: Store) -> None:
    """X2."""
    worker, other = Worker(store, gpus=2), Worker(store, gpus=2, owner="w2")
    big = create(store, gpus=4)
    small = [create(store, gpus=1), create(store)]
    assert sorted(worker.work() + other.work()) == sorted(small)
    assert reason(store, big) == "waiting for 4 GPUs"
    assert store.queues() == {"default": 1}
    large = Worker(store, gpus=8, owner="w3")
    assert large.work() == [big], "the first worker that has so many gets it with its first heartbeat"


def test_one_that_this_worker_has_no_room_for_is_given_to_another(store: Store) -> None:
    small, large = Worker(store), Worker(store, gpus=2, owner="w2")
    run_id = create(store, gpus=2)
    assert small.work() == []
    assert small.work() == []
    assert large.work() == [run_id]


def test_what_was_given_to_a_worker_that_vanished_is_taken_by_others(store: Store, redis_client: Any) -> None:
    small, large = Worker(store), Worker(store, gpus=2, owner="w2")
    run_id = create(store, gpus=2)
    small.work()
    assert store.get(run_id).state is S.PENDING
    redis_client.zadd(keys.WORKERS, {large.owner: 1})
    redis_client.zrem(keys.consumers("default"), large.owner)
    store.publish_lost(grace_s=60)
    assert not redis_client.exists(keys.direct_queue(large.owner))
    assert Worker(store, gpus=2, owner="w3").work() == [run_id]


@pytest.mark.parametrize("stays", [True, False])
def test_a_worker_that_leaves_hands_back_what_it_was_given(store: Store, stays: bool) -> None:
    small, large = Worker(store), Worker(store, gpus=2, owner="w2")
    run_id = create(store, gpus=2)
    small.work()
    store.goodbye(large.owner, queues=["default"], stays=stays)
    assert small.work() == []
    assert reason(store, run_id) == "waiting for 2 GPUs"


@pytest.mark.parametrize("others", [0, 1100])
def test_an_item_lost_between_a_workers_own_list_and_its_claim_is_found(
    store: Store, redis_client: Any, others: int
) -> None:
    small, large = Worker(store), Worker(store, gpus=2, owner="w2")
    soon = store.now_us() + 10_000_000
    redis_client.zadd(keys.WORKERS, {f"other{number}": soon + number // 2 for number in range(others)} or {"w1": soon})
    run_id = create(store, gpus=2)
    small.work()
    redis_client.delete(keys.direct_queue(large.owner))
    assert store.publish_lost(grace_s=0) == 1
    assert large.work() == [run_id]


def test_a_busy_worker_gives_others_what_it_was_given(store: Store) -> None:
    small, large = Worker(store), Worker(store, gpus=2, owner="w2", slots=1)
    given = create(store, gpus=2)
    small.work()
    plain = create(store)
    large.jobs["x"] = Record.from_hash({"id": "x"})
    other = Worker(store, gpus=2, owner="w3")
    large.beat()
    assert other.work() == [given, plain]


def test_small_ones_may_go_first_until_the_big_one_has_waited_long_enough(store: Store) -> None:
    """Issue 5: no starvation."""
    worker = Worker(store, gpus=2, backfill_s=0.2)
    first = create(store, gpus=1)
    worker.work()
    big = create(store, gpus=2)
    second = create(store, gpus=1)
    assert worker.work() == [second]
    time.sleep(0.25)
    worker.end(first)
    third = create(store, gpus=1)
    free = create(store)
    assert worker.work() == [free], "one device is kept for the big one"
    assert reason(store, third) == "waiting for 1 GPU"
    worker.end(second)
    assert worker.work() == [big]
    worker.end(big)
    assert worker.work() == [third]


def test_nothing_is_collected_for_a_run_that_may_not_run(store: Store) -> None:
    worker = Worker(store, gpus=2, backfill_s=0.05)
    first = create(store, gpus=1)
    worker.work()
    create(store, gpus=2)
    worker.work()
    time.sleep(0.1)
    store.configure("queue", "default", {"paused": "1"})
    store.configure("queue", "other", {})
    worker.queues = ("default", "other")
    worker.beat()
    worker.end(first)
    small = create(store, queue="other", gpus=1)
    assert worker.work() == [small]


def test_one_worker_collects_for_a_run_and_not_all_of_them(store: Store) -> None:
    workers = [Worker(store, gpus=2, owner=f"w{at}", backfill_s=0.05) for at in range(2)]
    held = [create(store, gpus=1) for _ in range(2)]
    for worker in workers:
        worker.slots = 1
        worker.work()
        worker.slots = 4
    big = create(store, gpus=2)
    workers[0].work()
    time.sleep(0.1)
    for worker in workers:
        worker.beat()
    small = [create(store, gpus=1) for _ in range(2)]
    taken = [worker.work() for worker in workers]
    assert sorted(len(ids) for ids in taken) == [0, 1], "one keeps its device free, the other does not"
    collecting = taken.index([])
    workers[collecting].end(held[collecting])
    assert workers[collecting].work() == [big]
    assert {reason(store, run_id) for run_id in small} == {"", "waiting for 1 GPU"}


def test_a_more_urgent_run_in_a_queue_has_the_slot_before_a_parked_one(store: Store) -> None:
    """P14."""
    worker = Worker(store, gpus=1, slots=2)
    first, other = create(store, gpus=1), create(store)
    worker.work()
    parked = create(store, gpus=1, priority="low")
    worker.slots = 3
    worker.work()
    worker.slots = 2
    critical = create(store, priority="critical")
    worker.end(first)
    assert worker.work() == [critical]
    worker.end(other)
    worker.beat()
    assert worker.work() == [parked]


def test_one_that_takes_only_what_was_there_is_given_nothing_later(store: Store) -> None:
    """P18."""
    polling, other = Worker(store, gpus=1), Worker(store, owner="w2")
    first, second = create(store, gpus=1), create(store, gpus=1)
    polling.before_us = store.now_us()
    polling.beat()
    assert polling.work() == [first]
    late = create(store, gpus=1)
    other.work()
    polling.end(first)
    assert polling.work() == [second]
    polling.end(second)
    polling.beat()
    assert polling.work() == []
    assert reason(store, late) == "waiting for 1 GPU"


def test_cores_and_memory_are_counted_too(store: Store) -> None:
    worker = Worker(store, cpus=2000, memory=4 << 30)
    ids = [create(store, cpus=1.5), create(store, cpus=1.0), create(store, memory=3 << 30), create(store, cpus=0.5)]
    assert worker.work() == [ids[0], ids[2], ids[3]]
    assert reason(store, ids[1]) == "waiting for 1 CPU"
    more = create(store, cpus=0.5, memory=2 << 30)
    worker.work()
    assert reason(store, more) == "waiting for 0.5 CPUs and 2 GiB of memory"
    worker.end(ids[0])
    assert worker.work() == [ids[1]]


def test_a_claim_that_is_repeated_gets_the_same_devices(store: Store) -> None:
    run_id = create(store, gpus=1)
    how: dict[str, Any] = {"owner": "w", "worker": "w", "host": "h", "lease_s": 30.0, "nonce": "n"}
    free = Worker(store, owner="w", gpus=2).free(3)
    first, _ = store.claim(run_id, 1, free=free, devices=["0", "1"], **how)
    again, _ = store.claim(run_id, 1, free=free, devices=["1"], **how)
    assert first is not None
    assert again is not None
    assert first.gpus == again.gpus == ("0",)


def test_a_thousand_waiting_ones_cost_a_heartbeat_nothing(store: Store, redis_client: Any) -> None:
    """Cost follows what is found: nothing fits, and one line is looked at."""
    worker = Worker(store, gpus=1)
    for _ in range(1000):
        create(store, gpus=2)
    worker.work()
    before = redis_client.info("stats")["total_commands_processed"]
    worker.beat()
    redis_client.info("stats")
    assert redis_client.info("stats")["total_commands_processed"] - before < 60


# -- other runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "step", "goes"),
    [
        ("ok", FINISHED, True),
        ("any", FINISHED, True),
        ("failed", FINISHED, False),
        ("ok", FAILED, False),
        ("any", FAILED, True),
        ("failed", FAILED, True),
    ],
)
def test_a_run_waits_for_the_end_of_another(store: Store, wish: str, step: NextStep, goes: bool) -> None:
    worker = Worker(store)
    first = create(store)
    then = create(store, after=(f"{first}:{wish}",))
    assert worker.work() == [first]
    assert reason(store, then) == f"after run {first} ({wish})"
    worker.end(first, step)
    if goes:
        assert worker.work() == [then]
    else:
        assert store.get(then).state is S.KILLED
        assert first in reason(store, then)
        assert wish in reason(store, then)


def test_a_run_waits_for_all_it_names_and_then_for_its_time(store: Store) -> None:
    worker = Worker(store)
    ids = [create(store) for _ in range(2)]
    then = create(store, after=tuple(ids), delay_s=60)
    worker.work()
    for run_id in ids:
        assert store.get(then).due_at is None
        worker.end(run_id)
    record = store.get(then)
    assert record.due_at is not None
    assert record.due_at - record.created_at == 60_000_000
    make_due(store, then)
    store.publish_due()
    assert worker.work() == [then]


def test_one_that_failed_and_is_tried_again_has_not_ended(store: Store) -> None:
    worker = Worker(store)
    first = create(store)
    then = create(store, after=(first,))
    worker.work()
    worker.end(first, FAILED_AGAIN)
    assert store.get(then).state is S.PENDING
    worker.work()
    worker.end(first)
    assert worker.work() == [then]


def test_the_end_of_a_chain_is_told_to_its_last_link(store: Store, redis_client: Any) -> None:
    first = create(store)
    chain = [first]
    for _ in range(250):
        chain.append(create(store, after=(chain[-1],)))
    cleanup = create(store, after=(f"{chain[-1]}:any",))
    store.cancel(first, reason="not needed")
    while redis_client.scard("launch:settle"):
        store.publish_lost(grace_s=60)
    assert {store.get(run_id).state for run_id in chain} == {S.KILLED}
    assert Worker(store).work() == [cleanup]


@pytest.mark.parametrize("is_known_at_once", [True, False])
def test_a_run_that_never_ran_satisfies_any_wish_but_ok_and_failed(store: Store, is_known_at_once: bool) -> None:
    worker = Worker(store)
    first = create(store)
    if is_known_at_once:
        worker.work()
        worker.end(first)
    second = create(store, after=(f"{first}:failed",))
    third = create(store, after=(f"{second}:failed",))
    fourth = create(store, after=(f"{third}:ok",))
    fifth = create(store, after=(f"{third}:any",))
    if not is_known_at_once:
        worker.work()
        worker.end(first)
    assert {store.get(run_id).state for run_id in (second, third, fourth)} == {S.KILLED}
    assert reason(store, second) == f"run {first} is Finished, and this one waited for it to end failed"
    assert reason(store, third) == f"run {second} never ran, and this one waited for it to end failed"
    assert worker.work() == [fifth]


def test_a_run_that_ran_and_was_then_cancelled_in_its_queue_has_failed(store: Store) -> None:
    worker = Worker(store)
    first = create(store)
    cleanup = create(store, after=(f"{first}:failed",))
    worker.work()
    worker.end(first, FAILED_AGAIN)
    store.cancel(first, reason="enough")
    assert worker.work() == [cleanup]


# -- arrays ------------------------------------------------------------------------------------------------------------


def create_array(store: Store, count: int, *, later: Sequence[int] = (), **options: Any) -> list[str]:
    """`later`: the indexes of those that are not ready."""
    ids = [new_run_id() for _ in range(count)]
    for index, run_id in enumerate(ids):
        spec = RunSpec(command=("true",), array=ids[0], array_index=index, **options)
        store.create(run_id, spec, delay_s=60.0 if index in later else 0.0)
    return ids


@pytest.mark.parametrize(
    ("ends", "met"),
    [
        ((FINISHED, FINISHED, FINISHED), ("ok", "any")),
        ((FINISHED, FAILED, FINISHED), ("any", "failed")),
        ((FAILED, FINISHED, None), ("any", "failed")),
        ((FINISHED, None, None), ("any",)),
        ((None, None, None), ("any",)),
    ],
)
@pytest.mark.parametrize("is_known_at_once", [True, False])
def test_who_waits_for_an_array_waits_for_all_its_runs(
    store: Store, ends: tuple[NextStep | None, ...], met: tuple[str, ...], is_known_at_once: bool
) -> None:
    worker = Worker(store, slots=9)
    array = create_array(store, 3, later=[index for index, step in enumerate(ends) if step is None])

    def wait_for_it() -> dict[str, str]:
        return {wish: create(store, after=(f"{array[0]}:{wish}",)) for wish in ("ok", "any", "failed")}

    waiting = {} if is_known_at_once else wait_for_it()
    for run_id, step in zip(array, ends, strict=True):
        assert not (set(worker.work()) & set(waiting.values())), "not before the last one has ended"
        if step is None:
            store.cancel(run_id, reason="not needed")
        else:
            worker.end(run_id, step)
    waiting = waiting or wait_for_it()
    started = set(worker.work())
    assert {wish for wish, run_id in waiting.items() if run_id in started} == set(met)
    for wish, run_id in waiting.items():
        if wish not in met:
            assert store.get(run_id).state is S.KILLED
            assert reason(store, run_id).startswith(f"array {array[0]} ")


def test_a_retry_of_one_run_of_an_array_keeps_those_waiting_that_wait_for_it(store: Store) -> None:
    worker = Worker(store)
    array = create_array(store, 2)
    then = create(store, after=(array[0],))
    worker.work()
    worker.end(array[0], FAILED)
    assert store.requeue(array[0], reason="again") == ""
    worker.end(array[1])
    assert store.get(then).state is S.PENDING
    assert worker.work() == [array[0]]
    worker.end(array[0])
    assert worker.work() == [then]


def test_all_runs_of_an_array_are_cancelled_together(store: Store, api: Api) -> None:
    worker = Worker(store, slots=2)
    array = create_array(store, 250, array_limit=2)
    other = create(store)
    worker.work()
    assert api.find_group(array[1]) is None
    assert api.find_group(other) is None
    assert api.group(array[0]).cancel() == (248, 2)
    assert {store.get(run_id).state for run_id in array[2:]} == {S.KILLED}
    assert all(store.get(run_id).cancel_at for run_id in array[:2])
    assert store.get(other).state is S.PENDING
    for run_id in array[:2]:
        worker.end(run_id, NextStep(Outcome(S.KILLED)))
    with pytest.raises(RefusedError, match="all runs of array"):
        api.group(array[0]).cancel()


def test_an_array_whose_first_run_was_deleted_is_still_waited_for(store: Store) -> None:
    worker = Worker(store)
    array = create_array(store, 2)
    worker.work()
    then = create(store, after=(f"{array[0]}:any",))
    worker.end(array[0])
    store.delete(array[0], who="me", keep_s=60)
    assert store.get(then).state is S.PENDING
    worker.end(array[1])
    assert worker.work() == [then]


def test_an_array_leaves_nothing_behind(store: Store, redis_client: Any) -> None:
    worker = Worker(store)
    array = create_array(store, 3)
    worker.work()
    for run_id in array:
        worker.end(run_id)
        redis_client.zadd("launch:ended", {run_id: 1})
    assert store.retire(retention_s=1) == 3
    assert not redis_client.keys("launch:array:*")
    assert not redis_client.keys("launch:runs:array:*")


def test_what_has_ended_already_is_known_at_once(store: Store) -> None:
    worker = Worker(store)
    done, failed = create(store), create(store)
    worker.work()
    worker.end(done)
    worker.end(failed, FAILED)
    assert store.get(create(store, after=(failed,))).state is S.KILLED
    then = create(store, after=(done, f"{failed}:failed"))
    assert worker.work() == [then]


def test_a_run_that_is_not_there_cannot_be_waited_for(store: Store) -> None:
    with pytest.raises(InputError, match="no run or group 1m8aaaaaaaaaaaa"):
        create(store, after=("1m8aaaaaaaaaaaa",))
    assert store.counts()[S.PENDING] == 0


def test_one_damaged_waiter_strands_no_other(store: Store, redis_client: Any) -> None:
    worker = Worker(store)
    first = create(store)
    waiters = [create(store, after=(first,)) for _ in range(3)]
    redis_client.set("launch:run:odd", "not a hash")
    redis_client.zadd(f"launch:waiters:{first}", {"odd": 0})
    worker.work()
    worker.end(first)
    worker.slots = 9
    assert worker.work() == waiters, "in the order in which they came"
    assert {store.get(run_id).state for run_id in waiters} == {S.RUNNING}
    redis_client.delete("launch:run:odd")


# -- time --------------------------------------------------------------------------------------------------------------


def test_a_time_is_a_time_of_the_servers_clock(store: Store) -> None:
    at = store.now_us() + 500_000
    run_id = new_run_id()
    store.create(run_id, RunSpec(command=("true",)), at_us=at)
    assert store.get(run_id).due_at == at
    wait_until(lambda: store.now_us() > at)
    assert store.publish_due()[0] == 1
    past = new_run_id()
    store.create(past, RunSpec(command=("true",)), at_us=5)
    assert Worker(store).work() == [run_id, past]


def test_due_runs_go_in_the_order_of_their_times(store: Store) -> None:
    ids, now = [new_run_id() for _ in range(3)], store.now_us()
    for run_id, delay_us in zip(ids, (530_000, 510_000, 520_000), strict=True):
        store.create(run_id, RunSpec(command=("true",)), at_us=now + delay_us)
    wait_until(lambda: store.now_us() > now + 530_000)
    store.publish_due()
    assert [run_id for run_id, _ in items(store)] == [ids[1], ids[2], ids[0]]


def test_a_run_that_did_not_start_in_time_is_killed(store: Store) -> None:
    run_id, started = create(store, expires_s=0.3), create(store, queue="other", expires_s=0.3)
    worker = Worker(store, "other")
    worker.work()
    assert store.publish_due()[1] > 0, "the time is known to those who wait for the next one"
    time.sleep(0.31)
    store.publish_due()
    assert store.get(run_id).state is S.KILLED
    assert reason(store, run_id) == "it did not start within 0.3 s (--expires)"
    assert store.get(started).state is S.RUNNING
    assert Worker(store).work() == []


def test_a_scheduled_run_expires_after_its_time_and_not_before(store: Store) -> None:
    run_id = create(store, delay_s=0.5, expires_s=0.05)
    time.sleep(0.07)
    store.publish_due()
    assert store.get(run_id).state is S.PENDING
    wait_until(lambda: store.publish_due() and store.get(run_id).state is S.KILLED)


def test_a_claim_after_the_expiry_is_refused(store: Store) -> None:
    run_id = create(store, expires_s=0.02)
    time.sleep(0.03)
    assert Worker(store).work() == []
    assert states(store, run_id) == [S.PENDING, S.KILLED]


def test_a_worker_that_prefetches_gets_a_run_ahead_of_its_time(store: Store) -> None:
    run_id = create(store, delay_s=30)
    plain, ahead = Worker(store, owner="w1"), Worker(store, owner="w2", prefetch_s=60)
    store.publish_due(free=plain.free(4))
    assert plain.work() == ahead.work() == []
    store.publish_due(free=ahead.free(4))
    assert plain.work() == []
    assert ahead.work() == [run_id]
    record = ahead.jobs[run_id]
    assert record.start_at is not None
    assert record.start_at - record.created_at == 30_000_000


def test_one_that_was_to_be_prepared_and_may_not_run_keeps_its_time(store: Store) -> None:
    run_id = create(store, delay_s=30)
    due = store.get(run_id).due_at
    ahead = Worker(store, prefetch_s=60)
    store.publish_due(free=ahead.free(4))
    store.configure("queue", "default", {"paused": "1"})
    assert ahead.work() == []
    assert store.get(run_id).due_at == due
    assert store.publish_due()[1] == due


def test_one_that_was_to_be_prepared_by_a_busy_worker_goes_to_others_at_its_time(store: Store) -> None:
    run_id = create(store, delay_s=30)
    ahead = Worker(store, owner="w2", prefetch_s=60)
    store.publish_due(free=ahead.free(4))
    make_due(store, run_id)
    store.publish_due()
    other = Worker(store)
    assert other.work() == [run_id]
    assert ahead.work() == []


def test_a_worker_that_dies_while_it_prepares_costs_the_run_nothing(store: Store) -> None:
    run_id = create(store, delay_s=30)
    ahead = Worker(store, prefetch_s=60)
    store.publish_due(free=ahead.free(4))
    ahead.work()
    record = ahead.jobs.pop(run_id)
    crash(store, record)
    again = store.get(run_id)
    assert (again.state, again.due_at, again.first_attempt) == (S.PENDING, record.start_at, 2)


# -- recurring ---------------------------------------------------------------------------------------------------------


def test_a_schedule_is_fired_once_whoever_looks(store: Store) -> None:
    store.keep_schedule("nightly", "{}", 1000)
    spec = RunSpec(command=("true",))
    how: dict[str, Any] = {"queue_config": "", "pool_config": ""}
    first = store.fire("nightly", 1000, 2000, new_run_id(), spec, **how)
    second = store.fire("nightly", 1000, 2000, new_run_id(), spec, **how)
    assert first is not None
    assert second is None
    assert store.schedule("nightly") == ("{}", 2000)
    assert store.skip_schedule("nightly", 2000, 3000)
    assert not store.skip_schedule("nightly", 2000, 3000)
    assert len(Worker(store).work()) == 1
    assert store.delete_schedule("nightly")
    assert not store.delete_schedule("nightly")
    assert store.fire("nightly", 3000, 4000, new_run_id(), spec, **how) is None


# -- preemption --------------------------------------------------------------------------------------------------------


def test_a_preempted_run_goes_back_to_its_queue_and_costs_no_retry(store: Store) -> None:
    """W17."""
    worker = Worker(store)
    run_id = create(store)
    worker.work()
    worker.end(run_id, PREEMPTED)
    record = store.get(run_id)
    assert (record.state, record.reason, record.queue) == (S.PENDING, "preempted 1 of 5 times", "default")
    assert worker.work() == [run_id]
    assert (worker.jobs[run_id].attempt, worker.jobs[run_id].first_attempt, worker.jobs[run_id].preemptions) == (
        2,
        2,
        1,
    )


def test_a_request_to_preempt_is_no_cancel(store: Store) -> None:
    worker = Worker(store)
    run_id = create(store)
    assert store.preempt(run_id, reason="make room") == ("pending", "Pending")
    worker.work()
    assert store.preempt(run_id, reason="make room") == ("requested", "Running")
    record = store.get(run_id)
    assert record.preempting
    assert record.cancel_at is not None
    worker.end(run_id, PREEMPTED)
    again = store.get(run_id)
    assert (again.state, again.cancel_at, again.preempting) == (S.PENDING, None, False)


def test_a_cancel_after_a_preemption_is_the_end(store: Store) -> None:
    worker = Worker(store)
    run_id = create(store)
    worker.work()
    store.preempt(run_id, reason="make room")
    store.cancel(run_id, reason="not needed")
    store.preempt(run_id, reason="make room")
    worker.end(run_id, PREEMPTED)
    assert store.get(run_id).state is S.FAILED


def test_a_worker_that_dies_while_a_run_is_preempted_is_a_crash_like_others(store: Store) -> None:
    worker = Worker(store)
    run_id = create(store, retries=1)
    worker.work()
    store.preempt(run_id, reason="make room")
    record = worker.jobs.pop(run_id)
    expire_lease(store, run_id)
    assert try_crash(store, run_id, record.token, CRASHED_AGAIN)
    assert store.get(run_id).state is S.PENDING


# -- odds and ends -----------------------------------------------------------------------------------------------------


def test_an_item_that_was_given_and_comes_back_goes_into_line(store: Store, redis_client: Any) -> None:
    small, large = Worker(store), Worker(store, gpus=2, owner="w2")
    run_id = create(store, gpus=2)
    small.work()
    found = store.take(large.lists, before_us=store.now_us())
    assert found == (run_id, seq_of(store, run_id))
    assert store.put_back(*found)
    assert [text(item) for item in redis_client.lrange(item_list("default", 6), 0, -1)]
    assert large.work() == [run_id]


def test_only_what_was_there_before_is_taken(store: Store, redis_client: Any) -> None:
    """P18."""
    first = create(store)
    before = store.now_us()
    create(store)
    redis_client.rpush("other", json.dumps({"foreign": 1}))
    lists = ["other", *keys.queue_lists("default")]
    assert store.take(lists, before_us=before) == (first, 1)
    assert store.take(lists, before_us=before) is None


# -- what people see ---------------------------------------------------------------------------------------------------


def test_a_run_that_is_ready_says_why_nobody_has_taken_it(store: Store, api: Api) -> None:
    first, second = create(store), create(store)

    def told(run_id: str) -> str:
        api.direct._why_waiting.clear()
        return str(api.run(run_id).as_json()["reason"] or "")

    assert told(first).startswith("no worker consumes queue default")
    worker = Worker(store, slots=1)
    assert told(first) == ""
    worker.take()
    assert told(second) == "all slots of the worker of queue default are taken"
    other = Worker(store, owner="w2", slots=1)
    assert told(second) == ""
    other.take()
    third = create(store)
    assert told(third) == "all slots of the 2 workers of queue default are taken"
    worker.end(first)
    assert told(third) == ""


def test_a_queue_tells_apart_what_is_ready_and_what_waits_for_its_time_or_others(store: Store, api: Api) -> None:
    first = create(store)
    create(store, delay_s=60.0)
    create(store, after=(first,))
    queue = api.queue("default")
    assert (queue.waiting, queue.later, queue.running) == (1, 2, 0)
    assert store.queues() == {"default": 1}


def test_a_worker_and_its_queue_agree_on_what_runs_between_two_heartbeats(store: Store, redis_client: Any) -> None:
    worker = Worker(store, slots=4)
    said = {"worker": "w", "owner": "w1", "host": "h", "pid": 1, "queues": ["default"], "slots": 4, "running": 0}
    said |= {"state": "running", "problem": None}
    redis_client.set(keys.worker("w1"), json.dumps(said))
    for _ in range(2):
        create(store)
    worker.work()
    assert [found["running"] for found in store.workers_now()] == [store.running_in("queue", "default")] == [2]
    worker.end(next(iter(worker.jobs)))
    assert [found["running"] for found in store.workers_now()] == [store.running_in("queue", "default")] == [1]


def test_a_schedules_runs_wait_for_the_run_whose_outputs_they_take_and_for_their_last_one(store: Store) -> None:
    store.keep_schedule("nightly", "{}", 1000)
    train, forgotten, worker = create(store, queue="gpu"), new_run_id(), Worker(store)
    spec = RunSpec(command=("true",), inputs=(f"{train}:model.pt", f"{forgotten}:data"))
    how: dict[str, Any] = {"queue_config": "", "pool_config": "", "overlap": "queue-one"}
    first, second = new_run_id(), new_run_id()
    assert store.fire("nightly", 1000, 2000, first, spec, **how)
    assert (worker.work(), reason(store, first)) == ([], f"after run {train} (ok)")
    trains = Worker(store, "gpu", owner="w2")
    assert trains.work() == [train]
    trains.end(train)
    assert worker.work() == [first]
    # A person tries it again, while a time comes.
    assert store.requeue(train, reason="again") == ""
    assert store.fire("nightly", 2000, 3000, second, spec, **how)
    worker.end(first)
    assert (worker.work(), reason(store, second)) == ([], f"after run {train} (ok)")
    trains.work()
    trains.end(train)
    assert worker.work() == [second]


@pytest.mark.parametrize("overlap", ["allow", "skip", "queue-one"])
def test_a_schedule_whose_last_run_goes_on_does_as_it_was_told(store: Store, redis_client: Any, overlap: str) -> None:
    store.keep_schedule("nightly", "{}", 1000)
    worker = Worker(store)
    made: list[str] = []

    def fire(at: int) -> bool:
        run_id = new_run_id()
        how: dict[str, Any] = {"queue_config": "", "pool_config": "", "overlap": overlap}
        created = store.fire("nightly", at, at + 1000, run_id, RunSpec(command=("true",)), **how)
        assert created is not None
        if created.is_new:
            made.append(run_id)
        return created.is_new

    assert fire(1000)
    worker.work()
    assert store.get(made[0]).scheduled_at == 1000
    # One goes on; then two times come.
    found = [fire(2000), fire(3000)]
    assert found == {"allow": [True, True], "skip": [False, False], "queue-one": [True, False]}[overlap]
    if overlap == "queue-one":
        assert worker.work() == []
        assert reason(store, made[1]) == f"after run {made[0]} (any)"
    worker.end(made[0], FAILED)
    worker.work()
    assert store.get(made[-1]).state is (S.FAILED if overlap == "skip" else S.RUNNING)
    for run_id in list(worker.jobs):
        worker.end(run_id)
    assert fire(4000)
    assert store.delete_schedule("nightly")
    assert not redis_client.keys("launch:schedule:*")
