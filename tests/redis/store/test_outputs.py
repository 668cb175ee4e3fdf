"""What a record says of its attempts' outputs: that they wait to be sent, then how much the store has of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from launch_worker.model.run import Record
from launch_worker.store.changes import FIRST
from launch_worker.store.store import Store
from tests.support.arrows import FAILED_AGAIN, FINISHED, claim, create
from tests.support.redis_client import redis_of


def outputs(store: Store, run_id: str) -> dict[str, Any]:
    known: dict[str, Any] = json.loads(redis_of(store.url).hget(f"launch:run:{run_id}", "outputs") or b"{}")
    for one in known.values():
        one.pop("at", None)
    return known


def keep(store: Store, record: Record, *, files: int = 2, left_out: int = 0, token: int | None = None) -> str:
    token = record.token if token is None else token
    return store.keep_outputs(record.id, record.attempt, token, files=files, size=20 << 30, left_out=left_out)


KEPT = {"files": 2, "bytes": 20 << 30, "left_out": 0}


def test_an_end_says_that_outputs_wait_and_their_sender_that_they_are_stored(store: Store) -> None:
    record = claim(store, create(store))
    assert store.finish(record, FINISHED, leaves_outputs=True)
    assert outputs(store, record.id) == {"1": {"sending": True}}
    assert (keep(store, record), outputs(store, record.id)) == ("kept", {"1": KEPT})
    # Repeated reports, and a repeated call, change nothing.
    assert store.finish(record, FINISHED, leaves_outputs=True)
    assert (keep(store, record), outputs(store, record.id)) == ("kept", {"1": KEPT})


def test_an_end_without_outputs_leaves_no_field(store: Store) -> None:
    record = claim(store, create(store))
    assert store.finish(record, FINISHED)
    assert outputs(store, record.id) == {}


def test_what_an_early_end_said_is_taken_back_where_nothing_was_left(store: Store) -> None:
    record = claim(store, create(store))
    assert store.finish(record, FINISHED, leaves_outputs=True)
    assert store.finish(record, FINISHED, leaves_outputs=False)
    assert outputs(store, record.id) == {}


def test_outputs_of_which_no_file_is_wanted_are_none(store: Store) -> None:
    record = claim(store, create(store))
    store.finish(record, FINISHED, leaves_outputs=True)
    assert (keep(store, record, files=0), outputs(store, record.id)) == ("kept", {})
    assert keep(store, record, files=0, left_out=3) == "kept"
    assert outputs(store, record.id)["1"]["left_out"] == 3


def test_outputs_may_be_stored_before_the_end_is_known(store: Store) -> None:
    record = claim(store, create(store))
    assert keep(store, record) == "kept"
    store.finish(record, FINISHED, leaves_outputs=True)
    assert outputs(store, record.id) == {"1": KEPT}


def test_each_attempt_has_its_outputs_and_an_earlier_one_keeps_what_it_has(store: Store) -> None:
    run_id = create(store, retries=1)
    first = claim(store, run_id)
    store.finish(first, FAILED_AGAIN, leaves_outputs=True)
    second = claim(store, run_id)
    assert (keep(store, first), keep(store, second, files=3)) == ("kept", "kept")
    assert outputs(store, run_id) == {"1": KEPT, "2": KEPT | {"files": 3}}
    assert keep(store, first, files=9) == "superseded"
    assert outputs(store, run_id)["1"] == KEPT


def test_another_token_and_an_attempt_to_come_are_refused(store: Store) -> None:
    record = claim(store, create(store))
    assert keep(store, record, token=record.token + 1) == "superseded"
    assert store.keep_outputs(record.id, 2, record.token, files=1, size=1, left_out=0) == "superseded"
    assert outputs(store, record.id) == {}


def test_a_run_that_is_gone_is_deleted_or_unknown(store: Store) -> None:
    record = claim(store, create(store))
    store.finish(record, FINISHED)
    store.delete(record.id, who="me", keep_s=60)
    assert keep(store, record) == "deleted"
    redis_of(store.url).delete(f"launch:run:{record.id}:deleted")
    assert keep(store, record) == "unknown"
    assert not redis_of(store.url).exists(f"launch:run:{record.id}")


@pytest.mark.parametrize("damage", [b"", b"no JSON", b"[]", b"7"])
def test_a_damaged_field_is_written_anew(store: Store, damage: bytes) -> None:
    record = claim(store, create(store))
    redis_of(store.url).hset(f"launch:run:{record.id}", "outputs", damage)
    store.finish(record, FINISHED, leaves_outputs=True)
    assert outputs(store, record.id) == {"1": {"sending": True}}


def test_an_archive_is_told_so_that_it_reads_the_run_again(store: Store) -> None:
    store.want_changes()
    record = claim(store, create(store))
    store.finish(record, FINISHED, leaves_outputs=True)
    before = store.changes(FIRST, count=100)[-1].id
    keep(store, record)
    (change,) = store.changes(before, count=100)
    assert (change.kind, change.fields["id"], change.fields.get("n")) == ("run", record.id, None)
