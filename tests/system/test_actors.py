"""Whatever a person does with a command is told in the change feed, with who did it."""

from __future__ import annotations

import gc
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from launch_worker.api.client import Api
from launch_worker.cli.main import group
from launch_worker.cli.submit import submit_command
from launch_worker.store import keys
from launch_worker.store.redis.client import text
from launch_worker.store.store import Store
from launch_worker.submission.sent import me
from tests.support.arrows import FINISHED, create, running

Do = Callable[..., str]

SWEEP = """
method: grid
parameters:
  x: {values: [1, 2, 3]}
command: ["true", "${args}"]
"""


@pytest.fixture
def do(redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Do:
    """Carries out a command of `launch-worker`, or of `launch-submit`, in this process."""
    monkeypatch.setenv("LAUNCH_REDIS_URL", redis_url)
    monkeypatch.chdir(tmp_path)

    def run(program: str, *words: str) -> str:
        command = submit_command if program == "launch-submit" else group
        with warnings.catch_warnings():
            # A command leaves its connection to the end of its process.
            warnings.simplefilter("ignore", ResourceWarning)
            result = CliRunner().invoke(command, words, standalone_mode=False)
            gc.collect()
        assert result.exception is None, (words, result.output, result.exception)
        return result.output

    return run


def last(store: Store) -> tuple[str, str, str]:
    """Kind, what was done, and the actor, of the last change but the end of a group, which follows from others."""
    change = [change for change in store.changes() if change.kind != "group"][-1]
    return change.kind, change.fields.get("what") or change.fields.get("state", ""), change.fields.get("actor", "")


def test_acts_on_runs(store: Store, do: Do) -> None:
    store.want_changes()
    do("launch-worker", "cancel", create(store))
    assert last(store) == ("run", "Killed", me())
    record = running(store)
    do("launch-worker", "preempt", record.id)
    assert last(store) == ("act", "preempt", me())
    do("launch-worker", "cancel", record.id)
    assert last(store) == ("act", "cancel", me())
    store.finish(record, FINISHED)
    do("launch-worker", "retry", record.id)
    assert last(store) == ("run", "Pending", me())
    do("launch-submit", "--", "true", "x" * 5000)
    assert last(store) == ("run", "Pending", me())
    array = do("launch-submit", "--quiet", "--array", "0-1", "--", "true").split()[0]
    do("launch-worker", "cancel", array)
    assert last(store) == ("run", "Killed", me())
    do("launch-worker", "delete", array)
    assert last(store) == ("gone", "", me())
    held = running(store)
    store.hold(held.id, held.token, owner="owner1")
    do("launch-worker", "confirm", held.id, "ended")
    acts = [change.fields for change in store.changes() if change.kind == "act"]
    assert (acts[-1]["id"], acts[-1]["what"], acts[-1]["actor"]) == (held.id, "confirm", me())


@pytest.mark.parametrize("kind", ["queue", "pool"])
def test_acts_on_queues_and_pools(store: Store, do: Do, kind: str) -> None:
    store.want_changes()
    for words, what in (
        (("create", "sim", "--limit", "2"), "created"),
        (("set", "sim", "--limit", "3"), "changed"),
        (("pause", "sim"), "paused"),
        (("resume", "sim"), "resumed"),
        (("delete", "sim"), "deleted"),
    ):
        do("launch-worker", f"{kind}s", *words)
        assert last(store) == (kind, what, me())


def test_acts_on_schedules_and_sweeps(store: Store, do: Do, tmp_path: Path) -> None:
    store.want_changes()
    do("launch-submit", "--cron", "0 3 * * *", "--cron-name", "nightly", "--", "true")
    assert last(store) == ("schedule", "created", me())
    do("launch-worker", "schedules", "delete", "nightly")
    assert last(store) == ("schedule", "deleted", me())
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    sweep = json.loads(do("launch-worker", "sweep", "create", "sweep.yaml", "--json"))["id"]
    for word in ("pause", "resume", "stop"):
        do("launch-worker", "sweep", word, sweep)
    acts = [change.fields for change in store.changes() if change.kind == "sweep"]
    assert [act["what"] for act in acts] == ["created", "paused", "resumed", "stopped", "finished"]
    assert {act.get("actor", "") for act in acts[:-1]} == {me()}


@pytest.mark.parametrize("word", ["drain", "upgrade", "resume"])
def test_orders_to_workers(store: Store, do: Do, redis_client: Any, word: str) -> None:
    store.want_changes()
    said = {"worker": "w@h", "owner": "o1", "host": "h", "state": "running", "pid": 1, "slots": 1, "running": 0}
    store.heartbeat(
        [], owner="o1", worker="w@h", lease_s=30, gone_s=60, description=said | {"queues": ["a"]}, queues=["a"]
    )
    with redis_client.pubsub() as listener:
        listener.subscribe(keys.admin_channel("o1"))
        listener.get_message(timeout=5)
        do("launch-worker", "workers", word, "w@h")
    assert last(store) == ("worker", word, me())


def test_a_submission_tells_the_redis_user_beside_the_author(store: Store, redis_client: Any) -> None:
    store.want_changes()
    redis_client.execute_command("ACL", "SETUSER", "bob", "on", ">pw", "~*", "&*", "+@all")
    try:
        url = f"redis://bob:pw@{store.url.rpartition('@')[2]}"
        for one in (url, store.url):
            api = Api(one)
            api.submit({"command": ["true"]})
            api.store.close()
    finally:
        redis_client.execute_command("ACL", "DELUSER", "bob")
    made = [change.fields for change in store.changes() if change.kind == "run"]
    assert [fields["actor"] for fields in made] == [f"{me()} as bob", me()]
    assert text(redis_client.hget(keys.run(made[0]["id"]), "state")) == "Pending"
