"""The end of a run and the next claim of its slot in one call: both as if they were two, and together repeatable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from launch_worker.model.run import Record
from launch_worker.model.states import RunState
from launch_worker.model.worker import FreeCapacity
from launch_worker.store import keys
from launch_worker.store.attempts import NOT_PLAIN
from launch_worker.store.redis.library import function_of
from launch_worker.store.store import Store
from tests.support.arrows import FINISHED, create, enlist, items

OWNER = "w"
LISTS = keys.queue_lists("default")
FREE = FreeCapacity(
    OWNER, ("default",), slots=2, gpus=0, cpus=8000, memory=1 << 34, total=(0, 8000, 1 << 34), backfill_s=300
)

Answers = tuple[bool, tuple[Record | None, str] | None]


def claim_next(store: Store, nonce: str = "first") -> Record:
    enlist(store, OWNER, "default")
    record, why = store.claim_next(
        LISTS, slot="1", nonce=nonce, owner=OWNER, worker="w", host="h", lease_s=30, plain=True
    )
    assert record is not None, why
    return record


def end_and_claim(store: Store, record: Record, nonce: str = "second") -> Answers:
    about: dict[str, Any] = {"owner": OWNER, "host": "h", "lease_s": 30, "free": FREE, "pid": 7}
    return store.finish_and_claim(record, FINISHED, lists=LISTS, slot="1", nonce=nonce, **about)


def free_slots(store: Store, redis_client: Any) -> int:
    return int(redis_client.hget(keys.free(OWNER), "slots"))


def test_the_ended_run_is_finished_and_the_next_one_is_running(store: Store) -> None:
    first, second = create(store), create(store)
    accepted, answer = end_and_claim(store, claim_next(store))
    assert accepted
    assert answer is not None
    assert answer[0] is not None
    kept = store.get(second)
    assert (answer[0].id, answer[0].token, answer[0].attempt) == (second, kept.token, 1)
    assert answer[0].spec == kept.spec
    assert store.get(first).state is RunState.FINISHED
    assert (store.get(first).exit_code, store.get(first).pid) == (0, 7)
    assert kept.state is RunState.RUNNING
    assert (kept.owner, kept.worker, kept.host) == (OWNER, "w", "h")


def test_a_repeated_call_gets_the_same_run_and_changes_nothing(store: Store) -> None:
    for _ in range(3):
        create(store)
    record = claim_next(store)
    _, answer = end_and_claim(store, record)
    waiting = items(store)
    accepted, again = end_and_claim(store, record)
    assert accepted
    assert answer is not None
    assert again is not None
    assert again[0] is not None
    assert again[0] == answer[0]
    assert items(store) == waiting


def test_an_end_that_is_refused_claims_nothing(store: Store, redis_client: Any) -> None:
    _, second = create(store), create(store)
    record = claim_next(store)
    redis_client.hset(keys.run(record.id), "owner", "another")
    assert end_and_claim(store, record) == (False, None)
    assert store.get(second).state is RunState.PENDING
    redis_client.hset(keys.run(record.id), "owner", OWNER)
    assert end_and_claim(store, replace(record, token=record.token - 1)) == (False, None)
    assert store.get(record.id).state is RunState.RUNNING


def test_a_record_that_redis_has_lost_is_written_again_and_ends_without_a_claim(
    store: Store, redis_client: Any
) -> None:
    first, second = create(store), create(store)
    record = claim_next(store)
    lose(redis_client, first)
    assert end_and_claim(store, record) == (True, None)
    assert store.get(first).state is RunState.FINISHED
    assert store.get(second).state is RunState.PENDING


def test_a_slot_that_goes_on_stays_taken_and_one_that_finds_nothing_is_free(store: Store, redis_client: Any) -> None:
    create(store)
    create(store)
    store.heartbeat([], owner=OWNER, worker="w", lease_s=30, gone_s=30, description={}, queues=["default"], free=FREE)
    record = claim_next(store)
    assert free_slots(store, redis_client) == 1
    _, answer = end_and_claim(store, record)
    assert answer is not None
    assert answer[0] is not None
    assert free_slots(store, redis_client) == 1
    assert end_and_claim(store, answer[0], nonce="third") == (True, (None, ""))
    assert free_slots(store, redis_client) == 2


def test_where_a_run_waited_for_the_place_the_next_claim_is_a_call_of_its_own(store: Store) -> None:
    store.configure("queue", "default", {"limit": "1"})
    create(store)
    record = claim_next(store)
    second = create(store)
    assert store.get(second).reason == "limit 1 of queue default reached"
    assert end_and_claim(store, record) == (True, None)
    assert claim_next(store, nonce="second").id == second


def test_a_run_that_is_not_plain_stays_in_its_list(store: Store) -> None:
    create(store)
    record = claim_next(store)
    second = create(store, cpus=1.0)
    assert end_and_claim(store, record) == (True, (None, NOT_PLAIN))
    assert store.get(second).state is RunState.PENDING
    assert len(items(store)) == 1


def test_an_element_of_another_system_stays_where_it_is(store: Store, redis_client: Any) -> None:
    create(store)
    record = claim_next(store)
    redis_client.lpush(LISTS[2], "something else")
    assert end_and_claim(store, record) == (True, (None, ""))
    assert redis_client.lrange(LISTS[2], 0, -1) == [b"something else"]


def test_a_full_redis_takes_the_end_and_gives_no_run(store: Store, full: None, request: pytest.FixtureRequest) -> None:
    first, second, record = request.getfixturevalue("two")
    assert end_and_claim(store, record) == (True, None)
    assert store.get(first).state is RunState.FINISHED
    assert store.get(second).state is RunState.PENDING


def test_a_server_that_nobody_has_looked_at_takes_the_end_and_gives_no_run(store: Store, redis_client: Any) -> None:
    first, second = create(store), create(store)
    record = claim_next(store)
    redis_client.function_delete(function_of("claim").rsplit("_", 1)[0])
    assert end_and_claim(store, record) == (True, None)
    assert store.get(first).state is RunState.FINISHED
    assert store.get(second).state is RunState.PENDING


@pytest.fixture
def two(store: Store) -> tuple[str, str, Record]:
    return create(store), create(store), claim_next(store)


@pytest.fixture
def full(two: tuple[str, str, Record], redis_client: Any) -> Iterator[None]:
    redis_client.config_set("maxmemory", "1")
    yield
    redis_client.config_set("maxmemory", "0")


def lose(redis_client: Any, run_id: str) -> None:
    """Delete a run as a Redis that was rolled back to the time before it."""
    redis_client.delete(keys.run(run_id), keys.history(run_id))
    for key in redis_client.scan_iter(match="launch:*"):
        kind = redis_client.type(key)
        if kind == b"zset":
            redis_client.zrem(key, run_id)
        elif kind == b"set":
            redis_client.srem(key, run_id)
