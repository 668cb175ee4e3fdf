"""The archive follows the change feed, and mends what it missed: each test in SQLite and in PostgreSQL."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select, text

from launch_worker.archive import follow, schema
from launch_worker.archive.acts import Wanted, acts
from launch_worker.archive.follow import Archive
from launch_worker.archive.leader import LeaseLostError
from launch_worker.archive.query import where_it_is
from launch_worker.database.database import Database
from launch_worker.ids import new_run_id
from launch_worker.model.spec import RunSpec
from launch_worker.model.states import RunState
from launch_worker.store import keys
from launch_worker.store.store import Store
from launch_worker.store.submit import Announced, New
from tests.support.archives import Follower, everything, rows_of, run_of
from tests.support.arrows import (
    FAILED,
    FAILED_AGAIN,
    FINISHED,
    adopt,
    claim,
    crash,
    create,
    create_many,
    expire_lease,
    image_of,
    roll_back,
)

Make = Callable[[], Follower]


def states(database: Database, run_id: str) -> list[str]:
    return [row["state"] for row in rows_of(database, schema.transitions, run_id)]


def test_a_run_that_is_followed_has_its_row_attempt_and_transitions(
    store: Store, database: Database, follower: Make
) -> None:
    archive = follower()
    archive.catch_up()
    run_id = create(store, name="train", tags=("night",), config={"lr": 0.1})
    archive.catch_up()
    assert run_of(database, run_id)["state"] == "Pending"
    record = claim(store, run_id)
    archive.catch_up()
    running = run_of(database, run_id)
    assert (running["state"], running["started_at"], running["worker"]) == ("Running", record.started_at, record.worker)
    store.finish(record, FAILED)
    archive.catch_up()
    now = store.get(run_id)
    row = run_of(database, run_id)
    for name in ("reason", "attempt", "exit_code", "phase", "message", "started_at", "ended_at", "created_at"):
        assert row[name] == getattr(now, name), name
    assert row["search"].splitlines() == ["train", "true", "night", '{"lr": 0.1}', "exit code 3"]
    assert states(database, run_id) == ["Pending", "Running", "Failed"]
    [attempt] = rows_of(database, schema.attempts, run_id)
    assert (attempt["state"], attempt["exit_code"], attempt["ended_at"]) == ("Failed", 3, now.ended_at)
    assert [row["tag"] for row in rows_of(database, schema.run_tags, run_id)] == ["night"]


def test_a_group_that_is_followed_has_its_row_with_its_counts(store: Store, database: Database, follower: Make) -> None:
    archive = follower()
    archive.catch_up()
    ids = [new_run_id(), new_run_id()]
    group = Announced(f"b{ids[0]}", f"b{ids[0]}", 2)
    create_many(store, [New(run_id, RunSpec(command=("true",)), group=group) for run_id in ids])
    for run_id, step in zip(ids, (FINISHED, FAILED), strict=True):
        store.finish(claim(store, run_id), step)
    archive.catch_up()
    with database.reading() as connection:
        row = connection.execute(select(schema.run_groups)).one()
    assert (row.id, row.what, row.created_at < row.changed_at) == (group.id, "ended", True)
    detail = json.loads(row.detail)
    assert (detail["name"], detail["size"], detail["Failed"], detail["end"]) == ("true", 2, 1, "Failed")


def test_what_is_followed_and_what_is_walked_are_equal(
    store: Store, database: Database, follower: Make, redis_client: Any
) -> None:
    followed = follower()
    followed.catch_up()
    retried = set()
    for number in range(3):
        run_id = create(store, name=f"run-{number}", retries=1, tags=("a", "b"))
        store.finish(claim(store, run_id), FAILED_AGAIN)
        if number:
            retried.add(run_id)
            store.finish(claim(store, run_id), FINISHED if number == 1 else FAILED)
    create(store, delay_s=60.0)
    store.cancel(create(store), reason="not wanted")
    followed.catch_up()
    before = everything(database)
    with database.writing() as connection:
        for table in (schema.runs, schema.run_tags, schema.attempts, schema.transitions):
            connection.execute(table.delete())
    redis_client.delete(keys.CHANGES)
    follower().catch_up()
    found = everything(database)
    # A history does not tell on which machine an earlier attempt was, and what was said at its end.
    for attempt in before["attempts"]:
        if attempt["attempt"] == 1 and attempt["host"] and attempt["run_id"] in retried:
            attempt |= {"host": "", "gpus": "", "message": ""}
    assert found == before


def test_a_run_that_the_feed_has_forgotten_is_found_in_redis(
    store: Store, database: Database, follower: Make, redis_client: Any
) -> None:
    archive = follower()
    archive.catch_up()
    run_id = create(store)
    archive.catch_up()
    archive.stop()
    record = claim(store, run_id)
    store.finish(record, FINISHED)
    redis_client.xtrim(keys.CHANGES, maxlen=0)
    follower().catch_up()
    assert run_of(database, run_id)["state"] == "Finished"
    assert states(database, run_id) == ["Pending", "Running", "Finished"]


def test_a_feed_that_is_trimmed_while_the_archive_is_slow_leads_to_a_walk(
    store: Store, database: Database, follower: Make, redis_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = follower()
    archive.catch_up()
    monkeypatch.setattr("launch_worker.archive.follow._BATCH", 1)
    lost, run_id = create(store), create(store)
    redis_client.xtrim(keys.CHANGES, maxlen=1)
    archive.catch_up()
    assert run_of(database, lost)["state"] == run_of(database, run_id)["state"] == "Pending"


def test_entries_that_come_again_change_nothing(store: Store, database: Database, follower: Make) -> None:
    archive = follower()
    archive.catch_up()
    run_id = create(store)
    store.finish(claim(store, run_id), FINISHED)
    archive.catch_up()
    before = everything(database)
    archive.archive.apply(store.changes())
    assert everything(database) == before


def test_a_gap_in_a_runs_numbers_has_the_run_read_whole(store: Store, database: Database, follower: Make) -> None:
    archive = follower()
    archive.catch_up()
    run_id = create(store)
    store.finish(claim(store, run_id), FAILED)
    entries = [change for change in store.changes() if change.fields.get("state") == "Failed"]
    archive.archive.apply(entries)
    assert states(database, run_id) == ["Pending", "Running", "Failed"]


def test_a_crashed_run_that_came_back_has_its_true_end(
    store: Store, database: Database, follower: Make, redis_client: Any
) -> None:
    archive = follower()
    run_id = create(store)
    record = claim(store, run_id)
    expire_lease(store, run_id)
    crash(store, record)
    archive.catch_up()
    assert run_of(database, run_id)["state"] == "Crashed"
    store.finish(record, FINISHED)
    archive.catch_up()
    row = run_of(database, run_id)
    assert (row["state"], row["ended_at"]) == ("Finished", store.get(run_id).ended_at)
    [attempt] = rows_of(database, schema.attempts, run_id)
    assert attempt["state"] == "Finished"


def test_a_run_whose_attempt_was_adopted_has_the_worker_that_ended_it(
    store: Store, database: Database, follower: Make
) -> None:
    archive = follower()
    run_id = create(store)
    record = claim(store, run_id)
    archive.catch_up()
    adopted, why = adopt(store, record, previous_owner=record.owner)
    assert adopted is not None, why
    store.finish(adopted, FINISHED)
    archive.catch_up()
    row = run_of(database, run_id)
    assert (row["worker"], row["host"]) == (adopted.worker, adopted.host) != (record.worker, record.host)


def test_a_redis_that_was_rolled_back_is_believed(
    store: Store, database: Database, follower: Make, redis_client: Any
) -> None:
    archive = follower()
    archive.catch_up()
    run_id = create(store)
    image = image_of(store)
    record = claim(store, run_id)
    store.finish(record, FINISHED)
    archive.catch_up()
    assert run_of(database, run_id)["state"] == "Finished"
    roll_back(store, image)
    follower().catch_up()
    assert run_of(database, run_id)["state"] == "Pending"
    assert states(database, run_id) == ["Pending"]
    assert not rows_of(database, schema.attempts, run_id)


@pytest.mark.parametrize("is_followed", [True, False], ids=["followed", "walked"])
def test_a_deleted_run_keeps_its_name_and_who_deleted_it_only(
    store: Store, database: Database, follower: Make, redis_client: Any, is_followed: bool
) -> None:
    archive = follower()
    run_id = create(store, name="secret", tags=("t",), env={"PASSWORD": "x"})
    archive.catch_up()
    store.delete(run_id, who="ada@host", keep_s=60.0)
    if not is_followed:
        archive.stop()
        redis_client.xtrim(keys.CHANGES, maxlen=0)
        archive = follower()
    archive.catch_up()
    row = run_of(database, run_id)
    assert (row["name"], row["spec"], row["search"]) == ("secret", "", "")
    assert row["deleted_at"]
    assert row["deleted_by"] == "ada@host"
    assert not rows_of(database, schema.run_tags, run_id)


def test_a_run_that_redis_lost_before_its_end_is_marked(
    store: Store, database: Database, follower: Make, redis_client: Any
) -> None:
    archive = follower()
    run_id = create(store)
    archive.catch_up()
    archive.stop()
    redis_client.flushall()
    follower().catch_up()
    row = run_of(database, run_id)
    assert (row["state"], row["ended_at"]) == ("Pending", None)
    assert row["forgotten_at"]


def test_runs_that_redis_lost_are_found_beside_each_page_of_those_that_it_has(
    store: Store, database: Database, follower: Make, redis_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch_worker.archive.walk._PAGE", 2)
    archive = follower()
    archive.catch_up()
    run_ids = [create(store) for _ in range(12)]
    archive.catch_up()
    archive.stop()
    lost = {run_ids[at] for at in (0, 1, 2, 3, 4, 5, 8, 11)}
    for run_id in lost:
        redis_client.delete(keys.run(run_id))
        for index in redis_client.keys("launch:runs*"):
            redis_client.zrem(index, run_id)
    follower().catch_up()
    assert {run_id for run_id in run_ids if run_of(database, run_id)["forgotten_at"]} == lost


def test_a_walk_reads_two_values_of_a_run_that_it_has_not_and_of_one_that_it_has(
    store: Store, database: Database, follower: Make, redis_client: Any
) -> None:
    for _ in range(20):
        create(store)
    archive = follower()
    for _ in range(2):
        before = _reads(redis_client)
        archive.archive.walk()
        assert _reads(redis_client) - before < 2.5 * 20


def _reads(redis_client: Any) -> int:
    commands = redis_client.info("commandstats")
    return sum(commands.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("hgetall", "hmget", "lrange", "llen"))


def test_the_index_of_texts_in_sqlite_is_equal_to_the_texts(
    store: Store, database: Database, follower: Make, redis_client: Any
) -> None:
    if not database.is_sqlite:
        pytest.skip("in PostgreSQL that is the server's")
    archive = follower()
    run_ids = [create(store, name=f"run-{number}") for number in range(5)]
    archive.catch_up()
    store.finish(claim(store, run_ids[0]), FAILED)
    store.delete(run_ids[1], who="ada@host", keep_s=60.0)
    archive.catch_up()
    redis_client.hset(keys.run(run_ids[2]), "attempt", "7")
    archive.archive.walk()
    with database.writing() as connection:
        connection.execute(text("INSERT INTO runs_search (runs_search, rank) VALUES ('integrity-check', 1)"))


def test_redis_may_forget_a_run_once_its_record_is_archived_whole(
    store: Store, database: Database, follower: Make, redis_client: Any
) -> None:
    archive = follower()
    archive.catch_up()
    run_id = create(store)
    store.finish(claim(store, run_id), FINISHED)
    archive.catch_up()
    record = json.loads(run_of(database, run_id)["record"])
    assert (record["state"], record["name"]) == ("Finished", "true")
    assert store.retire(retention_s=0.0) == 1
    archive.stop()
    follower().catch_up()
    row = run_of(database, run_id)
    assert row["state"] == "Finished"
    assert row["forgotten_at"]


def test_one_that_died_between_database_and_redis_confirms_at_its_next_start(
    store: Store, database: Database, follower: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = follower()
    run_id = create(store)
    store.finish(claim(store, run_id), FINISHED)
    with monkeypatch.context() as patch:
        patch.setattr(store, "confirm_archived", lambda _: 0)
        archive.catch_up()
    assert [known for known, _ in store.unarchived()] == [run_id]
    assert store.retire(retention_s=0.0) == 0
    archive.stop()
    follower().catch_up()
    assert not store.unarchived()
    assert store.retire(retention_s=0.0) == 1


def test_a_run_that_the_archive_does_not_have_yet_is_not_forgotten(
    store: Store, database: Database, follower: Make
) -> None:
    follower().catch_up()
    run_id = create(store)
    store.finish(claim(store, run_id), FINISHED)
    assert store.retire(retention_s=0.0) == 0
    assert store.exists(run_id)


def test_what_people_did_is_in_the_audit_once(store: Store, database: Database, follower: Make) -> None:
    archive = follower()
    archive.catch_up()
    run_id = create(store, author="ada@host")
    claim(store, run_id)
    store.cancel(run_id, reason="not wanted", actor="bob@host")
    store.configure("queue", "gpu", {"limit": "4"}, actor="eve@host")
    archive.catch_up()
    archive.archive.apply(store.changes())
    found = acts(database, Wanted())
    assert [(act["actor"], act["what"], act["kind"], act["target"]) for act in reversed(found)] == [
        ("ada@host", "submit", "run", run_id),
        ("bob@host", "cancel", "run", run_id),
        ("eve@host", "created", "queue", "gpu"),
    ]
    assert found[0]["detail"] == {"limit": "4"}
    assert [act["what"] for act in acts(database, Wanted(who="BOB", what="Cancel", target=run_id))] == ["cancel"]
    assert not acts(database, Wanted(who="%"))
    assert not acts(database, Wanted(since=store.now_us()))


def test_who_has_submitted_is_in_the_audit_also_where_a_walk_has_found_the_run_first(
    store: Store, database: Database, follower: Make
) -> None:
    archive = follower()
    archive.catch_up()
    run_id = create(store, author="ada@host")
    archive.archive.walk()
    archive.catch_up()
    [act] = acts(database, Wanted(what="submit"))
    assert (act["actor"], act["target"]) == ("ada@host", run_id)


def test_texts_and_numbers_of_strangers_keep_nothing_out(
    store: Store, database: Database, follower: Make, redis_client: Any
) -> None:
    bad = create(store)
    redis_client.hset(
        keys.run(bad),
        mapping={
            "name": "x" * 10_000 + "\0",
            "reason": b"\xff\0",
            "created_at": "9" * 40,
            "attempt": "12345678901234567890",
            "spec": json.dumps({"command": ["\ud800", 5], "tags": ["\0", {"a": 1}], "config": {"x": "\ud800\0"}}),
        },
    )
    redis_client.rpush(keys.history(bad), "no json", '{"state":"Running","at":1e400}', '{"state":"Nowhere","at":1}')
    damaged = create(store)
    redis_client.delete(keys.run(damaged))
    redis_client.set(keys.run(damaged), "no hash")
    good = create(store)
    archive = follower()
    archive.catch_up()
    assert run_of(database, good)["state"] == "Pending"
    assert run_of(database, bad)["name"].startswith("xxx")
    store.cancel(good, reason="\0 " + "y" * 5000)
    archive.catch_up()
    assert run_of(database, good)["state"] == "Killed"


def test_a_large_spec_is_read_from_the_record(store: Store, database: Database, follower: Make) -> None:
    archive = follower()
    archive.catch_up()
    run_id = create(store, config={"text": "z" * 6000})
    archive.catch_up()
    assert len(run_of(database, run_id)["spec"]) > 6000


def test_two_archives_never_write_at_once(store: Store, database: Database, follower: Make) -> None:
    first = follower()
    first.catch_up()
    stopping = threading.Event()
    stopping.set()
    other = Archive(store, database, stopping=stopping, settle_s=0.0)
    assert not other.lead()
    create(store)
    first.stop()
    stopping.clear()
    assert other.lead()
    with pytest.raises(LeaseLostError):
        first.catch_up()
    other.release()


def test_a_change_of_a_later_release_is_passed_over(
    store: Store, database: Database, follower: Make, redis_client: Any
) -> None:
    archive = follower()
    archive.catch_up()
    redis_client.xadd(keys.CHANGES, {"kind": "novelty", "id": "x"})
    redis_client.xadd(keys.CHANGES, {"kind": "run", "state": "Running"})
    run_id = create(store)
    archive.catch_up()
    assert run_of(database, run_id)["state"] == RunState.PENDING.value


def test_what_is_missed_during_a_walk_has_a_walk_of_its_own(
    store: Store, database: Database, follower: Make, redis_client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Until that one is over, lists trust Redis alone for all that it has."""
    caplog.set_level("INFO", "launch_worker.archive")
    create(store)
    archive = follower()
    archive.archive.step(wait_s=0.0)
    redis_client.delete(keys.CHANGES)
    create(store)
    store.want_changes()
    archive.archive.step(wait_s=0.0)
    assert not where_it_is(database).is_whole
    archive.catch_up()
    assert where_it_is(database).is_whole
    assert caplog.text.count("archive.walked") == 2


def test_a_process_with_nothing_to_do_keeps_its_lease(
    store: Store, database: Database, follower: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = follower()
    archive.catch_up()
    with database.reading() as connection:
        before = connection.execute(select(schema.leader.c.until)).scalar_one()
    monkeypatch.setattr(follow, "LEASE_S", 0.0)
    archive.archive.step(wait_s=0.0)
    with database.reading() as connection:
        assert connection.execute(select(schema.leader.c.until)).scalar_one() > before


@pytest.mark.parametrize("is_reset_by", ["itself", "another reader"])
def test_an_entry_of_the_far_future_ends_neither_the_archive_nor_what_it_follows(
    store: Store, database: Database, follower: Make, redis_client: Any, is_reset_by: str
) -> None:
    """Who may write to the feed chooses the place of an entry: no database takes its time, and no other comes after."""
    archive = follower()
    archive.catch_up()
    redis_client.xadd(keys.CHANGES, {"kind": "act", "id": "x", "what": "x"}, id="18446744073709551614-1")
    archive.catch_up()
    if is_reset_by == "another reader":
        store.want_changes()
    archive.archive._renew()
    archive.catch_up()
    archive.archive._walk = None
    run_id = create(store)
    archive.archive.follow()
    assert run_of(database, run_id)["state"] == "Pending"
