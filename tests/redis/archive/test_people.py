"""The archive keeps who submitted a run, as a server has proven it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from sqlalchemy import update

from launch_worker.api.filters import parse_filter
from launch_worker.archive.acts import Wanted, acts
from launch_worker.archive.past import find
from launch_worker.archive.query import Question, count, facets
from launch_worker.archive.schema import runs
from launch_worker.database.database import Database
from launch_worker.ids import new_run_id
from launch_worker.model.spec import RunSpec
from launch_worker.store import keys
from launch_worker.store.store import Store
from tests.support.archives import Follower
from tests.support.arrows import FINISHED, claim


def test_a_run_that_redis_has_forgotten_is_its_users_still(
    store: Store, database: Database, follower: Callable[[], Follower], redis_client: Any
) -> None:
    run_id = new_run_id()
    archive = follower()
    archive.catch_up()
    store.create(run_id, RunSpec(command=("true",), author="mallory@box"), user="ada", user_groups=("ml",))
    archive.catch_up()
    store.finish(claim(store, run_id), FINISHED)
    archive.catch_up()
    redis_client.delete(keys.run(run_id), keys.history(run_id))
    found = find(database, run_id)
    assert found is not None
    assert (found.record.user, found.record.author) == ("ada", "mallory@box")
    wanted = parse_filter({"user": "ada"})
    question = Question(wanted.tree, wanted.matches)
    assert count(database, question) == 1
    assert facets(database, question, ("user",)) == {("ada",): 1}
    # A database of an earlier release has the user in the run's record only.
    with database.writing() as connection:
        connection.execute(update(runs).values(user=""))
        import_module("launch_worker.database.migrations.m0010_users_of_runs").fill(connection)
    assert count(database, question) == 1
    [submitted] = acts(database, Wanted(what="submit"))
    assert submitted["actor"] == "ada", "the one that was proven"
