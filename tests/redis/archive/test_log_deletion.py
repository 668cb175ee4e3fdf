"""The archive's process deletes the logs of deleted runs: whoever deleted the run, whatever is away meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from launch_worker.archive import log_keeper, schema
from launch_worker.archive.deletion import delete_runs
from launch_worker.archive.leader import LeaseLostError
from launch_worker.archive.selection import Selection
from launch_worker.archive.status import status
from launch_worker.archive.walk import _LATE_S
from launch_worker.database.database import Database
from launch_worker.errors import LaunchError
from launch_worker.logs.manifest import Manifest
from launch_worker.logs.stored import StoredLogs
from launch_worker.model.spec import RunSpec
from launch_worker.objects import Objects
from launch_worker.store.store import Store
from tests.redis.archive.stores import logs, s3, url_of
from tests.support.archives import Follower
from tests.support.arrows import FAILED, FINISHED, claim, create

__all__ = ["logs", "s3"]

Make = Callable[..., Follower]


def with_log(store: Store, logs: StoredLogs, step: Any = FINISHED) -> str:
    """An ended run that has printed much."""
    run_id = create(store)
    store.finish(claim(store, run_id), step)
    write(logs, run_id)
    return run_id


def write(logs: StoredLogs, run_id: str) -> None:
    for attempt in (1, 2):
        logs.objects.put(f"{run_id}/{attempt}/whole.zst", [b"frame"])
        logs.put_manifest(Manifest(run_id, attempt, 7))


def delete_by_selection(database: Database, store: Store, selection: Selection) -> int:
    return sum(delete_runs(database, store, selection, who="ada@host", keep_s=60.0))


def make_due(database: Database) -> None:
    """Let the time of the next looks come."""
    with database.writing() as connection:
        connection.execute(update(schema.log_deletions).values(due_at=0))


def deletions(database: Database) -> list[str]:
    with database.reading() as connection:
        return list(connection.execute(select(schema.log_deletions.c.run_id)).scalars())


def test_the_logs_of_deleted_runs_go_whoever_deleted_them(
    store: Store, database: Database, follower: Make, logs: StoredLogs
) -> None:
    archive = follower(log_url=url_of(logs))
    by_person, by_command, forgotten, kept = (
        with_log(store, logs, step) for step in (FINISHED, FAILED, FAILED, FINISHED)
    )
    archive.catch_up()
    store.delete(by_person, who="ada@host", keep_s=60.0)
    chosen = schema.runs.c.id.in_([by_command, forgotten])
    with database.writing() as connection:
        connection.execute(update(schema.runs).where(chosen).values(project="ada/old"))
    store._redis.delete(f"launch:run:{forgotten}")
    assert delete_by_selection(database, store, Selection(project="ada/old")) == 2
    archive.catch_up()
    assert logs.runs() == {by_person, by_command, forgotten, kept}, "it is for the thread of the logs"
    assert status(database, store).undeleted_logs == 3
    archive.keep_logs()
    assert logs.runs() == {kept}
    assert status(database, store).undeleted_logs == 0


def test_many_deleted_runs_cost_one_list_of_the_store(
    store: Store, database: Database, follower: Make, logs: StoredLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_keeper, "_FEW", 2)
    archive = follower(log_url=url_of(logs))
    brief = [create(store) for _ in range(5)]
    for run_id in brief:
        store.finish(claim(store, run_id), FINISHED)
    large, kept = with_log(store, logs), create(store)
    write(logs, kept)
    archive.catch_up()
    assert delete_by_selection(database, store, Selection()) == 6
    asked: list[str] = []
    names = logs.objects.names

    def counted(_: Objects, prefix: str) -> list[str]:
        asked.append(prefix)
        return names(prefix)

    monkeypatch.setattr(Objects, "names", counted)
    archive.keep_logs()
    assert asked == [large]
    assert logs.runs() == {kept}


def test_a_worker_that_writes_late_leaves_no_orphan(
    store: Store, database: Database, follower: Make, logs: StoredLogs
) -> None:
    archive = follower(log_url=url_of(logs))
    run_id = with_log(store, logs)
    archive.catch_up()
    store.delete(run_id, who="ada@host", keep_s=60.0)
    archive.catch_up()
    archive.keep_logs()
    write(logs, run_id)
    archive.keep_logs()
    assert logs.runs() == {run_id}, "it is looked for again some time later"
    make_due(database)
    archive.keep_logs()
    assert not logs.runs()
    assert deletions(database) == [run_id]
    with database.writing() as connection:
        long_ago = store.now_us() - int(_LATE_S * 1e6) - 1
        connection.execute(update(schema.log_deletions).values(deleted_at=long_ago))
    archive.archive.walk()
    assert deletions(database) == [], "not forever"


def test_a_run_of_the_same_id_keeps_its_log(store: Store, database: Database, follower: Make, logs: StoredLogs) -> None:
    archive = follower(log_url=url_of(logs))
    run_id = with_log(store, logs)
    archive.catch_up()
    assert delete_by_selection(database, store, Selection()) == 1
    store._redis.delete(f"launch:run:{run_id}:deleted")
    store.create(run_id, RunSpec(command=("true",)))
    archive.catch_up()
    archive.keep_logs()
    assert logs.runs() == {run_id}
    assert deletions(database) == []


def test_a_store_that_is_away_holds_nothing_up_and_what_is_deleted_is_not_forgotten(
    store: Store, database: Database, follower: Make, tmp_path: Path
) -> None:
    logs = StoredLogs(f"file://{tmp_path}/logs")
    # Nobody listens there.
    archive = follower(log_url="ftp://127.0.0.1:1/logs")
    run_id = with_log(store, logs)
    archive.catch_up()
    store.delete(run_id, who="ada@host", keep_s=60.0)
    later = create(store)
    archive.catch_up()
    with pytest.raises(LaunchError, match="LAUNCH_LOG_URL"):
        archive.keep_logs()
    with database.reading() as connection:
        assert later in connection.execute(select(schema.runs.c.id)).scalars()
    # The process was killed meanwhile; another one goes on.
    archive = follower(log_url=url_of(logs))
    make_due(database)
    archive.keep_logs()
    assert not logs.runs()


def test_a_process_that_does_not_lead_deletes_nothing(
    store: Store, database: Database, follower: Make, logs: StoredLogs
) -> None:
    first = follower(log_url=url_of(logs))
    run_id = with_log(store, logs)
    first.catch_up()
    store.delete(run_id, who="ada@host", keep_s=60.0)
    first.catch_up()
    follower(log_url=url_of(logs))
    with pytest.raises(LeaseLostError):
        first.keep_logs()
    assert logs.runs() == {run_id}


def test_redis_is_told_where_logs_are_deleted(store: Store, follower: Make) -> None:
    follower(log_url="s3://somebody:hunter2@bucket/logs").catch_up()
    state = store.archive_state()
    assert " " not in state.name
    assert state.log_url == "s3://***@bucket/logs"
    follower().catch_up()
    assert store.archive_state().log_url == ""
