"""Ended runs wait for an archive: until it has confirmed them, and as long as there is room for those that wait."""

from __future__ import annotations

from typing import Any

import pytest

from launch_worker.api.client import Api
from launch_worker.model.outcome import Outcome
from launch_worker.model.retry import NextStep
from launch_worker.model.states import RunState
from launch_worker.store import keys
from launch_worker.store.store import Store
from tests.conftest import wait_until
from tests.support.arrows import CRASHED, FINISHED, beat, counter, crash, create, running
from tests.support.redis_client import redis_of

KILO = 1 << 10


def ended(store: Store, count: int = 1) -> list[str]:
    """Runs that ended, the first one first."""
    records = [running(store) for _ in range(count)]
    for record in records:
        store.finish(record, FINISHED)
    return [record.id for record in records]


def archive(store: Store, *run_ids: str) -> int:
    """What an archive does that has read these runs."""
    return store.confirm_archived([(run_id, store.get(run_id).ended_at or 0) for run_id in run_ids])


def left(store: Store, run_ids: list[str]) -> list[str]:
    return [record.id for record in store.records(run_ids)]


def test_without_an_archive_runs_go_after_their_retention(store: Store) -> None:
    ended(store, 3)
    assert store.retire(retention_s=60.0) == 0
    assert store.retire(retention_s=0.0) == 3
    assert counter(store, "unarchived_deleted") == 0


def test_with_an_archive_only_confirmed_runs_go(store: Store) -> None:
    store.register_archive("a")
    runs = ended(store, 4)
    assert store.retire(retention_s=0.0) == 0
    # In no order: one that cannot be archived does not keep the others.
    assert archive(store, runs[1], runs[3]) == 2
    assert store.retire(retention_s=60.0) == 0
    assert store.retire(retention_s=0.0) == 2
    assert left(store, runs) == [runs[0], runs[2]]
    assert [run_id for run_id, _ in store.unarchived()] == [runs[0], runs[2]]
    assert [run_id for run_id, _ in store.unarchived(skip=1, limit=1)] == [runs[2]]


def test_a_registration_lapses(store: Store, redis_client: Any) -> None:
    store.register_archive("a")
    assert 6.9 * 86400 < redis_client.ttl(keys.ARCHIVE) <= 7 * 86400
    runs = ended(store, 3)
    archive(store, runs[0])
    redis_client.pexpire(keys.ARCHIVE, 1)
    wait_until(lambda: not redis_client.exists(keys.ARCHIVE), what="the archive is forgotten")
    assert store.retire(retention_s=0.0) == 3
    assert counter(store, "unarchived_deleted") == 0


def test_an_end_that_was_corrected_is_confirmed_anew(store: Store) -> None:
    store.register_archive("a")
    record = running(store)
    crash(store, record, CRASHED)
    before = store.get(record.id).ended_at
    assert before is not None
    assert archive(store, record.id) == 1
    store.finish(record, NextStep(Outcome(RunState.FINISHED, exit_code=0)))
    assert store.retire(retention_s=0.0) == 0
    assert store.confirm_archived([(record.id, before)]) == 0
    assert archive(store, record.id) == 1
    assert store.retire(retention_s=0.0) == 1


@pytest.mark.parametrize("back", ["retried", "alive"])
def test_a_confirmed_run_that_runs_again_is_not_deleted(store: Store, back: str) -> None:
    store.register_archive("a")
    record = running(store)
    crash(store, record, CRASHED)
    archive(store, record.id)
    if back == "retried":
        store.requeue(record.id, reason="r")
    else:
        beat(store, record)
    assert store.retire(retention_s=0.0) == 0
    assert store.confirm_archived([(record.id, 1)]) == 0
    assert store.exists(record.id)


def test_a_confirmed_run_may_be_deleted_by_a_person(store: Store, redis_client: Any) -> None:
    [run_id] = ended(store)
    archive(store, run_id)
    assert store.delete(run_id, who="ann", keep_s=60)
    assert not redis_client.exists("launch:archived", keys.ENDED)


def test_confirming_again_changes_nothing(store: Store) -> None:
    [run_id] = ended(store)
    ended_at = store.get(run_id).ended_at or 0
    assert archive(store, run_id) == 1
    assert store.confirm_archived([(run_id, ended_at)]) == 0
    assert store.confirm_archived([("nonsense", 1), (create(store), 1)]) == 0


def test_many_are_confirmed_in_several_calls(store: Store, redis_client: Any) -> None:
    redis_client.zadd(keys.ENDED, {f"{number:015}": number for number in range(1200)})
    assert store.confirm_archived([(f"{number:015}", number) for number in range(1200)]) == 1200
    assert redis_client.zcard("launch:archived") == 1200
    redis_client.delete("launch:archived")


def test_past_the_bound_the_oldest_go_and_are_counted_and_doctor_says_so(store: Store, api: Api) -> None:
    store.register_archive("a")
    runs = ended(store, 5)
    archive(store, runs[4])
    assert store.retire(retention_s=3600.0, unarchived_bytes=0) == 0
    assert "archive.missed" not in {finding.name for finding in api.findings()}
    assert store.retire(retention_s=0.0, unarchived_bytes=3 * 2 * KILO) == 2
    assert left(store, runs) == runs[1:4]
    [finding] = [finding for finding in api.findings() if finding.name == "archive.missed"]
    assert (finding.level, "1 ended run was deleted before" in finding.cause) == ("error", True)
    assert store.retire(retention_s=0.0, limit=2, unarchived_bytes=0) == 2
    state = store.archive_state()
    assert (state.name, state.waiting, state.deleted) == ("a", 1, 3)
    redis_of(store.url).hset(keys.COUNTERS, "unarchived_deleted_at", 1)
    assert "archive.missed" not in {finding.name for finding in api.findings()}


def test_what_a_full_server_gets_is_confirmed_and_deleted(store: Store, redis_client: Any) -> None:
    runs = ended(store, 2)
    redis_client.config_set("maxmemory", 1)
    try:
        archive(store, *runs)
        assert store.retire(retention_s=0.0) == 2
    finally:
        redis_client.config_set("maxmemory", 0)


def test_a_damaged_list_of_confirmed_runs_stops_nothing(store: Store, redis_client: Any) -> None:
    redis_client.set("launch:archived", "no sorted set")
    record = running(store)
    crash(store, record, CRASHED)
    store.finish(record, FINISHED)
    store.requeue(record.id, reason="r")
    ended(store)
    assert store.retire(retention_s=0.0) == 1
    redis_client.delete("launch:archived")
