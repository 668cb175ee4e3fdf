"""The newest checkpoint of a run, which its record names under the token of the attempt that kept it."""

from __future__ import annotations

import pytest

from launch_worker.errors import UnknownRunError
from launch_worker.model.checkpoint import Checkpoint
from launch_worker.model.run import Record
from launch_worker.store import keys
from launch_worker.store.store import Store
from tests.support.arrows import CRASHED_AGAIN, FAILED, adopt, claim, crash, running
from tests.support.redis_client import redis_of


def keep(store: Store, record: Record, number: int, *, owner: str | None = None, files: int = 1) -> bool:
    owner = record.owner if owner is None else owner
    return store.keep_checkpoint(
        record.id, record.token, owner=owner, attempt=record.attempt, number=number, files=files, size=10 * files
    )


def newest(store: Store, run_id: str) -> tuple[int, int, int] | None:
    found = Checkpoint.of(store.get(run_id).checkpoint)
    return None if found is None else (found.attempt, found.number, found.files)


def test_the_newest_checkpoint_wins_an_older_one_is_superseded_and_a_repeat_changes_nothing(
    store: Store,
) -> None:
    record = running(store)
    assert newest(store, record.id) is None
    assert keep(store, record, 1_700_000_000_002, files=2)
    assert not keep(store, record, 1_700_000_000_001, files=1)
    assert keep(store, record, 1_700_000_000_002, files=3)
    assert newest(store, record.id) == (1, 1_700_000_000_002, 2)
    found = Checkpoint.of(store.get(record.id).checkpoint)
    assert found is not None
    assert abs(found.at - store.now_us()) < 60_000_000
    shown = store.get(record.id).as_json()
    assert Record.from_json(shown).as_json()["checkpoint"] == shown["checkpoint"]


def test_a_later_attempt_finds_it_and_a_superseded_one_or_another_owner_is_refused(store: Store) -> None:
    record = running(store)
    assert keep(store, record, 7)
    assert not keep(store, record, 8, owner="stranger")
    crash(store, record, CRASHED_AGAIN)
    assert keep(store, record, 9), "it waits for its next attempt, which goes on from here"
    later = claim(store, record.id, owner="owner2")
    assert Checkpoint.of(later.checkpoint) == Checkpoint.of(store.get(record.id).checkpoint)
    assert newest(store, record.id) == (1, 9, 1)
    assert not keep(store, record, 10)
    assert keep(store, later, 3), "a number is within an attempt"
    assert newest(store, record.id) == (2, 3, 1)


def test_it_is_kept_by_whoever_has_the_folder_and_after_the_end(store: Store) -> None:
    record = running(store)
    adopted, _ = adopt(store, record)
    assert adopted is not None
    assert not keep(store, record, 1), "another worker has the attempt"
    assert keep(store, record, 2, owner="")
    store.finish(adopted, FAILED, owner=adopted.owner)
    assert keep(store, adopted, 3)
    assert newest(store, record.id) == (1, 3, 1)


def test_a_person_may_have_a_run_begin_anew(store: Store) -> None:
    record = running(store)
    keep(store, record, 5)
    store.finish(record, FAILED, owner=record.owner)
    store.requeue(record.id, reason="again")
    assert newest(store, record.id) == (1, 5, 1)
    later = claim(store, record.id)
    store.finish(later, FAILED, owner=later.owner)
    store.requeue(record.id, reason="again", from_scratch=True)
    assert not keep(store, later, 9), "it was still on its way"
    assert newest(store, record.id) is None
    assert claim(store, record.id).fresh_from == 3


def test_a_record_that_is_lost_is_no_superseded_one_and_a_deleted_one_is(store: Store) -> None:
    record = running(store)
    redis_of(store.url).hset(keys.run(record.id), "token", record.token - 1)
    with pytest.raises(UnknownRunError):
        keep(store, record, 1)
    redis_of(store.url).hset(keys.run(record.id), "token", record.token)
    store.finish(record, FAILED, owner=record.owner)
    store.delete(record.id, who="ada", keep_s=60)
    assert not keep(store, record, 2)


def test_a_damaged_checkpoint_hides_nothing_else(store: Store) -> None:
    record = running(store)
    redis_of(store.url).hset(keys.run(record.id), "checkpoint", '{"attempt": "x"')
    assert newest(store, record.id) == (0, 0, 0)
    assert keep(store, record, 1)
    assert newest(store, record.id) == (1, 1, 1)
