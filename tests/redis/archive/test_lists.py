"""A list is of the archive and of what is newer in Redis: each run once, with Redis' state where Redis has it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from launch_worker.api.client import Api
from launch_worker.archive import schema
from launch_worker.archive.past import LOST
from launch_worker.database.database import Database
from launch_worker.errors import InputError
from launch_worker.settings import Settings
from launch_worker.store import keys
from launch_worker.store.store import Store
from tests.support.archives import Follower
from tests.support.arrows import FAILED, FINISHED, claim, create

Make = Callable[[], Follower]


@pytest.fixture
def api(store: Store, database_url: str) -> Iterator[Api]:
    made = Api(settings=Settings.from_env({"LAUNCH_DATABASE_URL": database_url}, redis_url=store.url))
    yield made
    if (archive := made.direct.archive()) is not None:
        archive.close()


def listed(api: Api, filters: Any = None, order: str = "-created_at") -> list[tuple[str, str]]:
    runs = api.runs(filters=filters, order=order, per_page=2)
    found = [(run.id, run.state.value) for run in runs]
    assert len(api.runs(filters=filters, order=order)) == len(found)
    return found


def ended(store: Store, **fields: Any) -> str:
    run_id = create(store, **fields)
    store.finish(claim(store, run_id), FINISHED)
    return run_id


def forget(redis_client: Any, *run_ids: str) -> None:
    """Have Redis lose runs, as by its retention."""
    for run_id in run_ids:
        redis_client.delete(keys.run(run_id), keys.history(run_id))
        redis_client.zrem(keys.RUNS, run_id)
        for state in ("Pending", "Running", "Finished"):
            redis_client.zrem(keys.runs_by("state", state), run_id)


def test_runs_that_redis_has_forgotten_are_listed(api: Api, store: Store, follower: Make, redis_client: Any) -> None:
    old = [ended(store, name="old", tags=("night",), config={"lr": 0.1}) for _ in range(3)]
    follower().catch_up()
    forget(redis_client, *old)
    new = create(store, name="new")
    finished = [(run_id, "Finished") for run_id in reversed(old)]
    assert listed(api) == [(new, "Pending"), *finished]
    for wanted in ({"name": "old"}, {"tags": "night"}, {"config.lr": {"$gt": 0.05}}, {"text": {"$contains": "NIGH"}}):
        assert listed(api, wanted) == finished
    assert listed(api, {"state": "pending"}) == [(new, "Pending")]
    assert listed(api, order="+created_at") == [*finished[::-1], (new, "Pending")]
    for order in ("-config.lr", "name", "ended_at", "tags"):
        assert sorted(listed(api, order=order)) == sorted(listed(api))
    assert listed(api, order="name")[0] == (new, "Pending")


def test_a_run_that_changed_since_is_listed_once_with_its_new_state(api: Api, store: Store, follower: Make) -> None:
    ids = [create(store, name=name) for name in ("a", "b", "c", "d")]
    first = ended(store, name="e")
    follower().catch_up()
    store.finish(claim(store, ids[0]), FAILED)
    claim(store, ids[1])
    store.requeue(first, reason="again")
    assert store.delete(ids[2], who="ada", keep_s=60)
    newest = create(store, name="f")
    now = [(newest, "Pending"), (first, "Pending"), (ids[3], "Pending"), (ids[1], "Running"), (ids[0], "Failed")]
    assert listed(api) == now
    assert listed(api, {"state": "Pending"}) == now[:3]
    assert listed(api, {"state": {"$ne": "Pending"}}) == now[3:]
    assert [run_id for run_id, _ in listed(api, order="name")] == [ids[0], ids[1], ids[3], first, newest]
    assert [run_id for run_id, _ in listed(api, order="-state")] == [ids[0], ids[1], newest, first, ids[3]]


def test_what_no_arrow_tells_is_read_from_redis(api: Api, store: Store, follower: Make, redis_client: Any) -> None:
    run_id = create(store)
    claim(store, run_id)
    other = create(store)
    follower().catch_up()
    redis_client.hset(keys.run(run_id), "summary", '{"loss": 0.5}')
    assert listed(api, {"summary.loss": {"$lt": 1}}) == [(run_id, "Running")]
    assert listed(api, order="summary.loss") == [(run_id, "Running"), (other, "Pending")]


@pytest.mark.parametrize("why", ["trimmed", "gone", "missed"])
def test_an_archive_that_missed_changes_gives_only_what_redis_has_not(
    api: Api, store: Store, database: Database, follower: Make, redis_client: Any, why: str
) -> None:
    ids = [ended(store, name="old") for _ in range(3)]
    archive = follower()
    archive.catch_up()
    archive.stop()
    forget(redis_client, ids[1])
    store.requeue(ids[0], reason="again")
    assert store.delete(ids[2], who="ada", keep_s=60)
    new = create(store, name="new")
    if why == "trimmed":
        redis_client.xtrim(keys.CHANGES, maxlen=1, approximate=False)
    elif why == "gone":
        redis_client.delete(keys.CHANGES)
    else:
        with database.writing() as connection:
            connection.execute(update(schema.position).values(missed_at=1))
    assert listed(api) == [(new, "Pending"), (ids[1], "Finished"), (ids[0], "Pending")]
    assert listed(api, {"name": "old"}) == [(ids[1], "Finished"), (ids[0], "Pending")]
    assert listed(api, order="name") == [(new, "Pending"), (ids[1], "Finished"), (ids[0], "Pending")]
    runs = api.runs()
    assert runs[0].id == new
    [notice] = runs.notices
    assert ("compared with Redis" if why == "missed" else "behind") in notice
    follower().catch_up()
    runs = api.runs()
    assert listed(api) == [(new, "Pending"), (ids[1], "Finished"), (ids[0], "Pending")]
    assert (len(runs), runs.notices) == (3, [])


def test_a_user_who_may_not_read_the_feed_gets_the_same_list(
    store: Store, database_url: str, follower: Make, redis_client: Any
) -> None:
    old, known = ended(store), create(store)
    follower().catch_up()
    forget(redis_client, old)
    new = create(store)
    rights = {"commands": ["+@all"], "keys": ["launch:[^c]*", "launch:ca*", "launch:co*", "[^l]*"]}
    redis_client.acl_setuser("somebody", enabled=True, passwords=["+secret"], reset=True, channels=["*"], **rights)
    url = re.sub("://(.*@)?", "://somebody:secret@", store.url)
    api = Api(settings=Settings.from_env({"LAUNCH_DATABASE_URL": database_url}, redis_url=url))
    runs = api.runs()
    assert [run.id for run in runs] == [new, known, old]
    assert [notice.partition(";")[0] for notice in runs.notices] == [
        "this user of Redis may not read the feed of changes"
    ]
    archive = api.direct.archive()
    assert archive is not None
    archive.close()
    redis_client.acl_deluser("somebody")


def test_a_run_that_redis_lost_says_so(api: Api, store: Store, follower: Make, redis_client: Any) -> None:
    run_id = create(store, name="lost")
    follower().catch_up()
    forget(redis_client, run_id)
    archive = follower()
    archive.catch_up()
    [run] = api.runs(filters={"name": "lost"})
    assert run.as_json()["reason"] == LOST


def test_a_regular_expression_is_looked_for_in_redis_only(
    api: Api, store: Store, follower: Make, redis_client: Any
) -> None:
    old, new = ended(store, name="old"), ended(store, name="old")
    follower().catch_up()
    forget(redis_client, old)
    runs = api.runs(filters={"name": {"$regex": "^ol"}})
    assert [run.id for run in runs] == [new]
    assert runs.notices == ["a regular expression is looked for in Redis' runs only, not in the archive"]
    # The last part of a project alone is none.
    assert api.runs(path="iris").notices == []


def test_an_archive_that_does_not_answer_leaves_redis_runs(store: Store, tmp_path: Path) -> None:
    run_id = create(store)
    (tmp_path / "archive.db").write_bytes(b"no database" * 100)
    for url in (f"sqlite:///{tmp_path}/archive.db", f"sqlite:///{tmp_path}/none.db", "postgresql://u@127.0.0.1:1/x"):
        api = Api(settings=Settings.from_env({"LAUNCH_DATABASE_URL": url}, redis_url=store.url))
        runs = api.runs()
        assert [run.id for run in runs] == [run_id]
        assert len(runs.notices) == 1
        assert runs.notices[0].startswith("only Redis' runs are listed: ")


def test_without_an_archive_sqlalchemy_is_not_imported(store: Store, tmp_path: Path) -> None:
    run_id = create(store, name="train", tags=("night",))
    program = (
        "import sys; from launch_worker.api.client import Api; api = Api(sys.argv[1]);"
        "print(*(run.id for run in api.runs(filters={'text': {'$contains': 'nigh'}})), 'sqlalchemy' in sys.modules)"
    )
    environment = os.environ | {"LAUNCH_WORK_DIR": str(tmp_path), "LAUNCH_DATABASE_URL": ""}
    words = [sys.executable, "-c", program, store.url]
    result = subprocess.run(words, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.split() == [run_id, "False"]


def test_runs_are_counted_by_what_they_have_with_redis_newest(
    api: Api, store: Store, follower: Make, redis_client: Any
) -> None:
    old = [ended(store, name="old", tags=("night", tag), queue="gpu") for tag in ("a", "b", "c")]
    moved, gone = create(store, name="new"), create(store, name="new")
    follower().catch_up()
    forget(redis_client, *old)
    store.finish(claim(store, moved), FAILED)
    assert store.delete(gone, who="ada", keep_s=60)
    create(store, name="old", tags=("a",))
    assert api.runs().counts("state") == {("Finished",): 3, ("Failed",): 1, ("Pending",): 1}
    assert api.runs().counts(["queue", "name"]) == {("gpu", "old"): 3, ("default", "new"): 1, ("default", "old"): 1}
    assert api.runs().counts("tag") == {("night",): 3, ("a",): 2, ("b",): 1, ("c",): 1}
    assert api.runs(filters={"tags": "a"}).counts(["state", "tag"])[("Pending", "a")] == 1
    redis_client.hset(keys.run(moved), "summary", '{"loss": 0.5}')
    assert api.runs(filters={"summary.loss": {"$lt": 1}}).counts("name") == {("new",): 1}
    redis_client.xtrim(keys.CHANGES, maxlen=0)
    assert api.runs().counts("state") == {("Finished",): 3, ("Failed",): 1, ("Pending",): 1}


def test_without_an_archive_runs_are_counted_by_state_or_by_queue_alone(store: Store) -> None:
    plain = Api(store.url)
    for queue in ("gpu", "gpu", "default"):
        ended(store, queue=queue)
    create(store, queue="gpu")
    assert plain.runs().counts("state") == {("Finished",): 3, ("Pending",): 1}
    assert plain.runs().counts("queue") == {("gpu",): 3, ("default",): 1}
    assert plain.runs(filters={"queue": "gpu"}).counts("queue") == {("gpu",): 3}
    for by, wanted in (("name", {}), (["state", "queue"], {}), ("state", {"queue": "gpu"}), ("state", {"name": "x"})):
        with pytest.raises(InputError, match="all else needs one"):
            plain.runs(filters=wanted).counts(by)
    unknowns: tuple[str | list[str], ...] = ("reason", "", [])
    for unknown in unknowns:
        with pytest.raises(InputError, match="by"):
            plain.runs().counts(unknown)
