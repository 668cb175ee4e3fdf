"""Runs are deleted from the archive, exported, and found again after Redis has forgotten them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from typing import Any

import pytest

from launch_worker.archive import schema
from launch_worker.archive.deletion import delete_runs
from launch_worker.archive.export import csv_lines, objects
from launch_worker.archive.past import find
from launch_worker.archive.selection import Selection, preview
from launch_worker.archive.status import status
from launch_worker.database import open_database
from launch_worker.database.database import Database
from launch_worker.errors import ArchiveUnavailableError, UnknownRunError
from launch_worker.model.states import RunState
from launch_worker.settings import Settings
from launch_worker.store import keys
from launch_worker.store.store import Store
from tests.support.archives import Follower, everything, rows_of, run_of
from tests.support.arrows import FAILED, FINISHED, claim, create

Make = Callable[[], Follower]


def ended(store: Store, step: Any = FINISHED, **options: Any) -> str:
    run_id = create(store, **options)
    store.finish(claim(store, run_id), step)
    return run_id


def delete(database: Database, store: Store, selection: Selection) -> int:
    return sum(delete_runs(database, store, selection, who="ada@host", keep_s=60.0))


def test_old_runs_are_deleted_from_the_archive_and_from_redis(
    store: Store, database: Database, follower: Make, redis_client: Any
) -> None:
    archive = follower()
    old, forgotten = ended(store, tags=("t",)), ended(store)
    archive.catch_up()
    store.retire(retention_s=0.0, limit=200)
    old = ended(store, tags=("t",))
    archive.catch_up()
    between = store.now_us()
    new, waiting = ended(store), create(store)
    archive.catch_up()
    chosen = Selection(ended_before=between)
    assert preview(database, chosen).count == 3
    assert delete(database, store, chosen) == 3
    archive.catch_up()
    follower().catch_up()
    assert sorted(row["id"] for row in everything(database)["runs"]) == sorted([new, waiting])
    for table in (schema.run_tags, schema.attempts, schema.transitions):
        assert not rows_of(database, table, old)
    assert not store.exists(old)
    assert find(database, forgotten) is None


def test_only_runs_of_the_state_and_project_that_are_over_are_deleted(
    store: Store, database: Database, follower: Make
) -> None:
    archive = follower()
    wanted = ended(store, FAILED, project="ada/tries")
    others = [
        ended(store, project="ada/tries"),
        ended(store, FAILED, project="bob/x"),
        create(store, project="ada/tries"),
    ]
    archive.catch_up()
    chosen = Selection(state=RunState.FAILED, project="ada/tries")
    assert preview(database, chosen).by_state == {"Failed": 1}
    assert delete(database, store, chosen) == 1
    archive.catch_up()
    assert sorted(row["id"] for row in everything(database)["runs"]) == sorted(others)
    assert not store.exists(wanted)


def test_a_run_that_runs_again_is_not_deleted(store: Store, database: Database, follower: Make) -> None:
    archive = follower()
    run_id = ended(store, FAILED)
    archive.catch_up()
    store.requeue(run_id, reason="retried")
    claim(store, run_id)
    assert delete(database, store, Selection()) == 0
    archive.catch_up()
    assert run_of(database, run_id)["state"] == "Running"


def test_a_run_that_redis_has_forgotten_is_shown_with_all_that_was_known(
    store: Store, database: Database, follower: Make, redis_client: Any
) -> None:
    archive = follower()
    run_id = ended(store, FAILED, name="train", env={"TOKEN": "x"}, config={"lr": 0.5})
    redis_client.hset(keys.run(run_id), "summary", '{"loss":0.25}')
    archive.catch_up()
    before = store.get(run_id).as_json()
    history = [step.as_json() for step in store.history(run_id)]
    store.retire(retention_s=0.0, limit=200)
    archive.catch_up()
    assert not store.exists(run_id)
    found = find(database, run_id)
    assert found is not None
    shown = found.as_json()
    assert {name: shown[name] for name in before} == before
    assert [{name: step[name] for name in history[0]} for step in shown["history"]] == [
        {name: step[name] for name in history[0]} for step in history
    ]
    [attempt] = shown["attempts"]
    assert (attempt["state"], attempt["exit_code"], attempt["host"]) == ("Failed", 3, "h")


def test_a_deleted_run_is_named_as_such(store: Store, database: Database, follower: Make) -> None:
    archive = follower()
    run_id = ended(store)
    archive.catch_up()
    store.delete(run_id, who="ada@host", keep_s=60.0)
    archive.catch_up()
    with pytest.raises(UnknownRunError, match=r"was deleted by ada@host at 2"):
        find(database, run_id)
    assert find(database, create(store)) is None


def test_an_export_has_each_run_once(store: Store, database: Database, follower: Make) -> None:
    archive = follower()
    archive.catch_up()
    first = ended(store, FAILED, name="=cmd()", tags=("a", "b"))
    between = store.now_us()
    second = create(store, name="later")
    archive.catch_up()
    lines = [json.loads(json.dumps(run)) for run in objects(database, Selection())]
    assert [run["id"] for run in lines] == [first, second]
    assert [step["state"] for step in lines[0]["history"]] == ["Pending", "Running", "Failed"]
    assert lines[0]["attempts"][0]["exit_code"] == 3
    rows = list(csv.DictReader(csv_lines(database, Selection())))
    assert [row["id"] for row in rows] == [first, second]
    assert (rows[0]["name"], rows[0]["tags"], rows[0]["exit_code"]) == ("'=cmd()", "a b", "3")
    assert [run["id"] for run in objects(database, Selection(created_from=between))] == [second]


def test_the_status_says_who_writes_and_how_far_it_is(store: Store, database: Database, follower: Make) -> None:
    archive = follower()
    ended(store)
    archive.catch_up()
    found = status(database, store)
    assert found.leader
    assert (found.counts, found.lag_s, found.unsealed) == ({"Finished": 1}, 0.0, 0)
    create(store)
    assert status(database, store).lag_s > 0
    archive.stop()
    assert not status(database, store).leader


def test_no_archive_is_said_so_and_not_made_by_those_who_read(tmp_path: Any) -> None:
    settings = Settings.from_env({"LAUNCH_WORK_DIR": str(tmp_path)})
    assert not settings.has_archive
    with pytest.raises(ArchiveUnavailableError, match="launch-worker archive run"):
        open_database(settings)
    assert not list(tmp_path.iterdir())
