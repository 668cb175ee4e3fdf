"""The change feed: what each arrow and each act adds to it, on both servers; and that nothing depends on it."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

import pytest

from launch_worker.dev.redis_server import RedisServer
from launch_worker.ids import new_run_id
from launch_worker.model.outcome import Outcome
from launch_worker.model.retry import NextStep
from launch_worker.model.spec import RunSpec
from launch_worker.model.states import RunState
from launch_worker.model.sweep import SweepOrder, Trial
from launch_worker.model.usage import KeptUsage
from launch_worker.model.worker import WorkerOrder
from launch_worker.store import keys
from launch_worker.store.changes import Change
from launch_worker.store.store import Store
from tests.conftest import wait_until
from tests.support.arrows import (
    CRASHED_AGAIN,
    FAILED,
    FAILED_AGAIN,
    FINISHED,
    beat,
    claim,
    crash,
    create,
    expire_lease,
    image_of,
    make_due,
    roll_back,
    running,
)
from tests.support.redis_client import redis_of
from tests.support.servers import SERVER_IDS, SERVERS

SPEC = RunSpec(command=("true",))
ME = "ann@lab"


@pytest.fixture(scope="module", params=SERVERS, ids=SERVER_IDS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with mock.patch("launch_worker.dev.redis_server.find_redis_server", return_value=request.param):
        made = RedisServer()
        made.start()
    yield made
    made.stop()


@pytest.fixture
def redis_url(server: RedisServer) -> str:
    redis_of(server.url).flushall()
    return server.url


@pytest.fixture
def followed(store: Store) -> Store:
    """A store whose changes somebody reads."""
    assert store.want_changes() is False
    return store


class Reader:
    """Takes the changes that are new since its last look."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._at = "0-0"

    def new(self) -> list[dict[str, str]]:
        """The fields of these changes, `kind` among them, without the times; not the feed's first entry."""
        found = self._store.changes(self._at)
        self._at = found[-1].id if found else self._at
        return [_plain(change) for change in found if change.kind != "feed"]


def _plain(change: Change) -> dict[str, str]:
    fields = {
        name: value for name, value in change.fields.items() if name not in ("at", "detail") and name[-3:] != "_at"
    }
    return {"kind": change.kind} | fields


# -- runs --------------------------------------------------------------------------------------------------------------


def test_the_life_of_a_run_is_told_arrow_by_arrow(followed: Store) -> None:
    reader = Reader(followed)
    run_id = create(followed, queue="gpu", project="me/iris", name="train", priority="high", tags=("a",))
    [created] = reader.new()
    spec = json.loads(created.pop("spec"))
    assert spec["tags"] == ["a"]
    who = {"kind": "run", "id": run_id}
    labels = {"name": "train", "queue": "gpu", "project": "me/iris", "priority": "3"}
    assert created == who | {"n": "0", "state": "Pending"} | labels

    record = claim(followed, run_id)
    of_attempt = {"attempt": "1", "worker": "w@owner1"}
    assert reader.new() == [who | {"n": "1", "state": "Running", "host": "h"} | of_attempt]

    followed.finish(record, FAILED, used=KeptUsage('{"cpu_s":1}', '{"cpu_s":1,"samples":{}}'))
    end = {"reason": "exit code 3", "exit_code": "3", "phase": "run", "message": "m", "usage": '{"cpu_s":1}'}
    assert reader.new() == [who | {"n": "2", "state": "Failed"} | of_attempt | end]

    followed.requeue(run_id, reason="retry asked for by ann", actor=ME)
    asked = {"n": "3", "state": "Pending", "attempt": "1", "reason": "retry asked for by ann", "actor": ME}
    assert reader.new() == [who | asked]
    assert [step.actor for step in followed.history(run_id)] == ["", "", "", ME]


def test_times_are_those_of_the_record(followed: Store) -> None:
    record = running(followed)
    followed.finish(record, FINISHED, ended_ago_s=0.0)
    now = followed.get(record.id)
    created, started, ended = (change.fields for change in followed.changes() if change.kind == "run")
    assert created["at"] == created["created_at"] == str(now.created_at)
    assert started["at"] == started["started_at"] == str(now.started_at)
    assert ended["ended_at"] == str(now.ended_at)
    assert [step.at for step in followed.history(record.id)] == [int(f["at"]) for f in (created, started, ended)]


def _finished(store: Store) -> str:
    record = running(store)
    store.finish(record, FINISHED)
    return record.id


def _retried(store: Store) -> str:
    record = running(store)
    store.finish(record, FAILED_AGAIN)
    return record.id


def _crashed_and_retried(store: Store) -> str:
    record = running(store)
    crash(store, record, CRASHED_AGAIN)
    return record.id


def _crashed_and_back(store: Store) -> str:
    record = running(store)
    crash(store, record)
    assert beat(store, record)[0].word == "ok"
    store.finish(record, FINISHED)
    return record.id


def _killed_in_line(store: Store) -> str:
    run_id = create(store)
    store.cancel(run_id, reason="cancelled")
    return run_id


def _late(store: Store) -> str:
    run_id = create(store, delay_s=60.0)
    make_due(store, run_id)
    store.publish_due()
    claim(store, run_id)
    return run_id


def _expired(store: Store) -> str:
    run_id = create(store, expires_s=60.0)
    redis_of(store.url).zadd("launch:expiring", {run_id: 1})
    store.publish_due()
    return run_id


def _damaged(store: Store) -> str:
    run_id = create(store)
    redis_of(store.url).hset(keys.run(run_id), "token", "x")
    store.claim(run_id, 1, owner="o", worker="w", host="h", lease_s=30)
    return run_id


def _after_a_failed_one(store: Store) -> str:
    first = running(store)
    run_id = create(store, after=(f"{first.id}:ok",))
    store.finish(first, FAILED)
    return run_id


def _after_one_that_has_failed(store: Store) -> str:
    first = running(store)
    store.finish(first, FAILED)
    return create(store, after=(f"{first.id}:ok",))


def _of_a_schedule(store: Store) -> str:
    store.keep_schedule("nightly", "{}", 1)
    run_id = new_run_id()
    assert store.fire("nightly", 1, 2, run_id, SPEC, queue_config="", pool_config="")
    claim(store, run_id)
    return run_id


def _of_a_sweep(store: Store) -> str:
    store.create_sweep("s1", {"workers": 1, "cap": 1})
    run_id = new_run_id()
    trial = Trial(index=0, run_id=run_id, drawn={"x": 1}, seen=0)
    spec = RunSpec(command=("true",), sweep="s1")
    assert store.next_run("s1", trial, spec, queue_config="", pool_config="", reason="sweep s1") == ""
    store.finish(claim(store, run_id), FINISHED)
    return run_id


LIVES = [
    *(_finished, _retried, _crashed_and_retried, _crashed_and_back, _killed_in_line, _late, _expired, _damaged),
    *(_after_a_failed_one, _after_one_that_has_failed, _of_a_schedule, _of_a_sweep),
]


@pytest.mark.parametrize("live", LIVES)
def test_the_feed_tells_what_the_history_has(followed: Store, live: Callable[[Store], str]) -> None:
    """Each arrow once, in order, with the number of its line; a creation without a line has number 0."""
    run_id = live(followed)
    told = [change.fields for change in followed.changes() if change.kind == "run" and change.fields["id"] == run_id]
    history = followed.history(run_id)
    first = 0 if told[0]["n"] == "0" else 1
    assert [int(fields["n"]) for fields in told] == list(range(first, first + len(history)))
    assert [
        (f["state"], int(f["at"]), int(f.get("attempt", 0)), f.get("worker", ""), f.get("reason", "")) for f in told
    ] == [(step.state.value, step.at, step.attempt, step.worker, step.reason) for step in history]
    ended = [(f.get("exit_code", ""), f.get("signal", ""), f.get("phase", "")) for f in told]
    assert ended == [
        ("" if step.exit_code is None else str(step.exit_code), step.signal, step.phase) for step in history
    ]


def test_a_run_that_redis_had_lost_is_marked_as_such(followed: Store) -> None:
    """Its history begins anew, so its numbers do."""
    record = running(followed)
    reader = Reader(followed)
    reader.new()
    redis_of(followed.url).delete(keys.run(record.id), keys.history(record.id))
    assert followed.restore(record, lease_s=30, owner="owner1")
    [back] = reader.new()
    assert (back["n"], back["state"], back["restored"]) == ("1", "Running", "1")


def test_a_run_that_redis_had_rolled_back_is_marked_as_such(followed: Store) -> None:
    run_id = create(followed)
    image = image_of(followed)
    record = claim(followed, run_id)
    roll_back(followed, image)
    reader = Reader(followed)
    reader.new()
    beat(followed, record)
    back = [change for change in reader.new() if change["kind"] == "run"]
    assert [(change["n"], change["state"], change["restored"]) for change in back] == [("1", "Running", "1")]


def test_a_repeated_call_tells_nothing_more(followed: Store) -> None:
    run_id = create(followed)
    record = claim(followed, run_id, nonce="n")
    followed.finish(record, FINISHED)
    before = followed.changes()
    followed.create(run_id, SPEC)
    followed.finish(record, FINISHED)
    assert followed.claim(run_id, 1, owner="o", worker="w", host="h", lease_s=30, nonce="n")[0] is None
    assert followed.changes() == before


def test_what_is_long_is_left_out_and_said_to_be(followed: Store) -> None:
    reader = Reader(followed)
    run_id = new_run_id()
    followed.create(run_id, RunSpec(command=("true", "x" * 5000), name="long"))
    [created] = reader.new()
    assert (created["name"], created["big"], "spec" in created) == ("long", "1", False)
    followed.finish(claim(followed, run_id), NextStep(Outcome(RunState.FAILED, message="y" * 5000, exit_code=1)))
    end = reader.new()[-1]
    assert (end["state"], end["exit_code"], end["big"], "message" in end) == ("Failed", "1", "1", False)


def test_values_of_strangers_stay_in_their_fields(followed: Store) -> None:
    """An entry is a list of separate words: no text can add a field to it."""
    reader = Reader(followed)
    name = "a kind run \"actor\": 'root' actor root"
    run_id = create(followed, name=name)
    followed.cancel(run_id, reason="x\nactor: root", actor="ann\x1b[2J@lab")
    created, killed = reader.new()
    assert (created["name"], "actor" in created) == (name, False)
    assert (killed["reason"], killed["actor"]) == ("x\nactor: root", "ann\N{REPLACEMENT CHARACTER}[2J@lab")


# -- acts --------------------------------------------------------------------------------------------------------------


def _sweep(store: Store, word: SweepOrder | None, before: SweepOrder | None = None) -> None:
    store.create_sweep("s1", {"workers": 1, "name": "lr"}, actor="bob" if word else ME)
    if before:
        store.steer_sweep("s1", before, reason="r", actor="bob")
    if word:
        store.steer_sweep("s1", word, reason="r", actor=ME)


def _configured(store: Store, kind: str, **fields: str | None) -> None:
    store.configure(kind, "gpu", {"limit": "1"}, actor="bob")
    store.configure(kind, "gpu", fields, actor=ME)


def _schedule(store: Store, next_us: int, before: int = 0) -> None:
    if before:
        store.keep_schedule("nightly", "{}", before, actor="bob")
    store.keep_schedule("nightly", "{}", next_us, actor=ME)


def _confirm(store: Store) -> None:
    record = running(store)
    store.hold(record.id, record.token, owner="owner1")
    assert store.release(record.id, record.token, actor=ME)


def _delete(store: Store) -> None:
    store.delete(_finished(store), who=ME, keep_s=60)


def _cancel_array(store: Store) -> None:
    first = new_run_id()
    store.create(first, RunSpec(command=("true",), array=first))
    claim(store, first)
    group = store.group(first)
    assert group is not None
    store.cancel_group(group, reason="r", actor=ME)


def _delete_schedule(store: Store) -> None:
    _schedule(store, 5)
    store.delete_schedule("nightly", actor=ME)


def _delete_queue(store: Store) -> None:
    store.configure("queue", "gpu", {"limit": "1"})
    store.delete_queue("gpu", actor=ME)


def _delete_pool(store: Store) -> None:
    store.configure("pool", "lab", {"limit": "1"})
    store.delete_pool("lab", actor=ME)


def _create_queue(store: Store) -> None:
    store.configure("queue", "gpu", {"limit": "2"}, create=True, actor=ME)


def _create_pool(store: Store) -> None:
    store.configure("pool", "lab", {}, create=True, actor=ME)


def _cancel(store: Store, **options: Any) -> None:
    store.cancel(running(store).id, reason="r", actor=ME, **options)


def _preempt(store: Store) -> None:
    store.preempt(running(store).id, reason="r", actor=ME)


#: An act, and the last change that it makes: kind, what, and the facts in its detail.
ACTS: list[tuple[Callable[[Store], None], str, str, dict[str, Any]]] = [
    (_cancel, "act", "cancel", {"reason": "r"}),
    (partial(_cancel, grace_s=2), "act", "cancel", {"reason": "r", "grace_us": "2000000"}),
    (_cancel_array, "act", "cancel", {"reason": "r"}),
    (_preempt, "act", "preempt", {"reason": "r"}),
    (_confirm, "act", "confirm", {}),
    (_delete, "gone", "", {}),
    (partial(_sweep, word=None), "sweep", "created", {}),
    (partial(_sweep, word="pause"), "sweep", "paused", {}),
    (partial(_sweep, word="resume", before="pause"), "sweep", "resumed", {}),
    (partial(_schedule, next_us=5), "schedule", "created", {"next_at": "5"}),
    (partial(_schedule, next_us=5, before=3), "schedule", "changed", {"next_at": "5"}),
    (_delete_schedule, "schedule", "deleted", {}),
    (_create_queue, "queue", "created", {"limit": "2"}),
    (partial(_configured, kind="queue", limit="3", rank=None), "queue", "changed", {"limit": "3", "rank": ""}),
    (partial(_configured, kind="queue", config='{"env": {"KEY": "x"}}'), "queue", "changed", {"config": "set"}),
    (partial(_configured, kind="queue", paused="1"), "queue", "paused", {"paused": "1"}),
    (partial(_configured, kind="queue", paused=None), "queue", "resumed", {"paused": ""}),
    (_delete_queue, "queue", "deleted", {}),
    (_create_pool, "pool", "created", {}),
    (partial(_configured, kind="pool", paused="1"), "pool", "paused", {"paused": "1"}),
    (_delete_pool, "pool", "deleted", {}),
]


@pytest.mark.parametrize(("act", "kind", "what", "detail"), ACTS)
def test_an_act_is_told_with_who_did_it(
    followed: Store, act: Callable[[Store], None], kind: str, what: str, detail: dict[str, Any]
) -> None:
    act(followed)
    last = followed.changes()[-1]
    assert (last.kind, last.fields.get("what", ""), last.fields["actor"]) == (kind, what, ME)
    assert json.loads(last.fields.get("detail", "{}")) == detail


def test_stopping_a_sweep_tells_of_the_sweep_and_of_its_runs(followed: Store) -> None:
    followed.create_sweep("s1", {"workers": 2})
    ids = [new_run_id(), new_run_id()]
    for index, run_id in enumerate(ids):
        trial = Trial(index=index, run_id=run_id, drawn={}, seen=0)
        spec = RunSpec(command=("true",), sweep="s1")
        assert followed.next_run("s1", trial, spec, queue_config="", pool_config="") == ""
    record = claim(followed, ids[0])
    reader = Reader(followed)
    reader.new()
    followed.steer_sweep("s1", "stop", reason="r", actor=ME)
    followed.steer_sweep("s1", "stop", reason="r", actor=ME)
    assert [(c["kind"], c.get("what") or c["state"], c["actor"]) for c in reader.new()] == [
        ("sweep", "stopped", ME),
        ("run", "Killed", ME),
    ]
    followed.steer_sweep("s1", "cancel", reason="r", actor=ME)
    followed.finish(record, FINISHED)
    assert [(c["kind"], c.get("what") or c["state"], c.get("actor")) for c in reader.new()] == [
        ("sweep", "cancelling", ME),
        ("act", "cancel", ME),
        ("run", "Finished", None),
        ("sweep", "canceled", None),
    ]


def test_a_sweep_that_pauses_itself_says_so(followed: Store) -> None:
    followed.create_sweep("s1", {"workers": 1})
    for index in range(5):
        trial = Trial(index=index, run_id=new_run_id(), drawn={}, seen=0)
        spec = RunSpec(command=("true",), sweep="s1")
        assert followed.next_run("s1", trial, spec, queue_config="", pool_config="") == ""
        followed.finish(claim(followed, trial.run_id), FAILED)
    last = [change.fields for change in followed.changes() if change.kind == "sweep"][-1]
    assert (last["what"], "actor" in last) == ("paused", False)


def test_a_time_that_a_schedule_leaves_out_is_told(followed: Store) -> None:
    followed.keep_schedule("nightly", "{}", 1)
    first = new_run_id()
    assert followed.fire("nightly", 1, 2, first, SPEC, queue_config="", pool_config="", overlap="skip")
    assert followed.fire("nightly", 2, 3, new_run_id(), SPEC, queue_config="", pool_config="", overlap="skip")
    last = followed.changes()[-1]
    assert (last.kind, last.fields["what"], json.loads(last.fields["detail"])) == (
        "schedule",
        "skipped",
        {"run": first},
    )


def test_a_submissions_actor_is_its_author(followed: Store) -> None:
    reader = Reader(followed)
    for command in (("true",), ("true", "x" * 5000)):
        followed.create(new_run_id(), RunSpec(command=command, author=ME, config={"author": "other"}))
    followed.create(new_run_id(), RunSpec(command=("true",), author=ME), reason="schedule nightly")
    assert [change.get("actor") for change in reader.new()] == [ME, ME, None]


def test_what_a_part_of_the_system_does_has_no_actor(followed: Store) -> None:
    followed.cancel(running(followed).id, reason="stopped early by hyperband")
    followed.cancel(create(followed), reason="x")
    changes = followed.changes()
    assert [change.kind for change in changes] == ["feed", "run", "run", "run", "run"]
    assert not any("actor" in change.fields for change in changes)


def test_those_who_wait_for_a_cancelled_run_are_not_killed_by_the_person(followed: Store) -> None:
    first = create(followed)
    create(followed, after=(f"{first}:ok",))
    reader = Reader(followed)
    reader.new()
    followed.cancel(first, reason="cancelled by ann", actor=ME)
    assert [(change["state"], change.get("actor")) for change in reader.new()] == [("Killed", ME), ("Killed", None)]


def test_an_actor_has_its_redis_user_and_a_bound(followed: Store, redis_client: Any) -> None:
    redis_client.execute_command("ACL", "SETUSER", "bo\x1bb", "on", ">pw", "~*", "&*", "+@all")
    host = followed.url.rpartition("@")[2]
    other = Store(f"redis://bo%1Bb:pw@{host}")
    other.cancel(create(followed), reason="r", actor="ann@" + "x" * 300)
    actor = followed.changes()[-1].fields["actor"]
    assert (len(actor), actor.startswith("ann@xx")) == (200, True)
    assert actor.endswith("xx as bo\N{REPLACEMENT CHARACTER}b")
    other.close()
    redis_client.execute_command("ACL", "DELUSER", "bo\x1bb")


# -- workers -----------------------------------------------------------------------------------------------------------


def _heartbeat(store: Store, owner: str, state: str = "running", problem: str = "") -> None:
    description = {
        "worker": "w@h", "owner": owner, "host": "h", "pid": 1, "queues": ["a"], "slots": 2, "running": 0,
        "state": state, "problem": problem,
    }  # fmt: skip
    store.heartbeat([], owner=owner, worker="w@h", lease_s=30, gone_s=60, description=description, queues=["a"])


def _of_workers(store: Store) -> list[tuple[str, str, str]]:
    return [
        (change.fields["id"], change.fields.get("name", ""), change.fields["what"])
        for change in store.changes()
        if change.kind == "worker"
    ]


def test_workers_appear_change_and_leave(followed: Store) -> None:
    for state in ("running", "running", "quarantined", "running", "draining", "draining"):
        _heartbeat(followed, "o1", state, "3 starts failed" if state == "quarantined" else "")
    appeared, quarantined = (
        change for change in followed.changes() if change.fields.get("what", "") in ("appeared", "quarantined")
    )
    assert json.loads(appeared.fields["detail"]) == {
        "host": "h",
        "pid": 1,
        "queues": ["a"],
        "slots": 2,
        "state": "running",
    }
    assert json.loads(quarantined.fields["detail"]) == {"problem": "3 starts failed"}
    followed.goodbye("o1", queues=["a"], stays=True)
    for _ in range(2):
        followed.goodbye("o1", queues=["a"])
    assert _of_workers(followed) == [
        *(("o1", "w@h", what) for what in ("appeared", "quarantined", "resumed", "draining")),
        ("o1", "", "left"),
    ]


def test_a_worker_that_vanished_is_lost_once_and_may_appear_again(followed: Store, redis_client: Any) -> None:
    _heartbeat(followed, "o1")
    redis_client.zadd(keys.WORKERS, {"o1": 1})
    redis_client.delete(keys.worker("o1"))
    for _ in range(2):
        followed.publish_lost(grace_s=0)
    _heartbeat(followed, "o1")
    assert [what for _, _, what in _of_workers(followed)] == ["appeared", "lost", "appeared"]


@pytest.mark.parametrize("word", ["drain", "upgrade", "resume"])
def test_an_order_to_a_worker_is_told_if_the_worker_listens(
    followed: Store, redis_client: Any, word: WorkerOrder
) -> None:
    assert not followed.order("o1", word, actor=ME)
    with redis_client.pubsub() as listener:
        listener.subscribe(keys.admin_channel("o1"))
        listener.get_message(timeout=5)
        assert followed.order("o1", word, actor=ME)
        assert json.loads(listener.get_message(timeout=5)["data"]) == {"order": word}
    [change] = [change for change in followed.changes() if change.kind == "worker"]
    assert (change.fields["what"], change.fields["actor"]) == (word, ME)


def test_a_description_that_is_no_description_is_no_trouble(followed: Store, redis_client: Any) -> None:
    redis_client.hset(keys.worker("owner1"), "a", "b")
    descriptions: list[dict[str, Any]] = [{}, {"state": ["x"]}, {"state": None, "problem": 3}, {"queues": {}}]
    for description in descriptions:
        pulse = followed.heartbeat(
            [], owner="owner1", worker="w", lease_s=30, gone_s=60, description=description, queues=[]
        )
        assert pulse.now


# -- the feed itself ---------------------------------------------------------------------------------------------------


def test_nothing_is_told_while_nobody_reads(store: Store) -> None:
    for live in LIVES:
        live(store)
    _heartbeat(store, "o1")
    for act, *_ in ACTS[:6]:
        act(store)
    assert (store.oldest_change(), store.changes()) == ("", [])
    assert not redis_of(store.url).exists(keys.CHANGES)


def test_a_reader_that_vanishes_lapses_with_its_changes(followed: Store, redis_client: Any) -> None:
    create(followed)
    assert 86000 < redis_client.ttl(keys.CHANGES) <= 86400
    at = followed.changes()[-1].id
    redis_client.pexpire(keys.CHANGES, 1)
    wait_until(lambda: not redis_client.exists(keys.CHANGES), what="the feed is gone")
    create(followed)
    assert followed.oldest_change() == ""
    assert followed.want_changes() is False
    # The feed that begins anew shows that something was missed.
    assert followed.oldest_change() > at
    assert [change.kind for change in followed.changes()] == ["feed"]
    create(followed)
    assert followed.want_changes() is True
    assert [change.kind for change in followed.changes()] == ["feed", "run"]


def test_a_feed_that_was_trimmed_shows_it(followed: Store, redis_client: Any) -> None:
    create(followed)
    at = followed.changes()[0].id
    for _ in range(3):
        create(followed)
    redis_client.xtrim(keys.CHANGES, maxlen=2, approximate=False)
    assert followed.oldest_change() > at
    assert len(followed.changes(at)) == 2


def test_the_feed_keeps_about_its_newest_hundred_thousand(followed: Store, redis_client: Any) -> None:
    pipe = redis_client.pipeline(transaction=False)
    for number in range(101_000):
        pipe.xadd(keys.CHANGES, {"n": number})
    pipe.execute()
    create(followed)
    assert 100_000 <= redis_client.xlen(keys.CHANGES) < 100_200
    assert followed.changes(followed.oldest_change(), count=10)


def test_changes_come_in_pages_and_are_waited_for(followed: Store) -> None:
    ids = [create(followed) for _ in range(5)]
    found: list[Change] = []
    while page := followed.changes(found[-1].id if found else "0-0", count=2):
        assert len(page) <= 2
        found += page
    assert [change.fields["id"] for change in found[1:]] == ids
    assert followed.changes(found[-1].id, block_s=0.05) == []
    heard: queue.SimpleQueue[list[Change]] = queue.SimpleQueue()
    reader = threading.Thread(target=lambda: heard.put(followed.changes(found[-1].id, block_s=60)))
    reader.start()
    run_id = create(followed)
    [change] = heard.get(timeout=20)
    reader.join()
    assert change.fields["id"] == run_id


def test_a_place_that_is_none_is_refused(followed: Store) -> None:
    for place in ("", "x", "$", "1-2-3", "-", "9" * 30):
        with pytest.raises(ValueError, match="no place in the feed"):
            followed.changes(place)


def test_a_damaged_feed_stops_no_run_and_is_mended_by_its_reader(followed: Store, redis_client: Any) -> None:
    redis_client.delete(keys.CHANGES)
    redis_client.set(keys.CHANGES, "no stream")
    for live in LIVES:
        live(followed)
    _heartbeat(followed, "o1")
    assert followed.want_changes() is False
    assert [change.kind for change in followed.changes()] == ["feed"]
    assert "held a string" in followed.refused()[0]["reason"]


def test_a_feed_that_somebody_ended_with_an_entry_of_the_future_begins_anew(followed: Store, redis_client: Any) -> None:
    """Redis refuses any further entry then."""
    last = f"{(1 << 64) - 1}-{(1 << 64) - 1}"
    redis_client.xadd(keys.CHANGES, {"kind": "run"}, id=last)
    record = running(followed)
    assert followed.changes(last) == []
    assert followed.want_changes() is False
    followed.finish(record, FINISHED)
    assert [change.kind for change in followed.changes()] == ["feed", "run"]


def test_a_caller_without_a_right_to_the_feed_makes_its_arrows(followed: Store, redis_client: Any) -> None:
    """As the users of a file of an earlier release."""
    rights = ("on", ">pw", "~*", "&*", "+@all", "-xadd")
    redis_client.execute_command("ACL", "SETUSER", "old", *rights)
    other = Store(f"redis://old:pw@{followed.url.rpartition('@')[2]}")
    other.finish(claim(other, create(other)), FINISHED)
    assert len(followed.changes()) == 1
    redis_client.execute_command(
        "ACL", "SETUSER", "old", "reset", "on", ">pw", "&*", "+@all", "~launch:[^c]*", "~launch:c[^h]*", "~[^l]*"
    )
    other.close()
    run_id = create(other)
    other.finish(claim(other, run_id), FINISHED)
    assert followed.get(run_id).state is RunState.FINISHED
    assert len(followed.changes()) == 1
    other.close()
    redis_client.execute_command("ACL", "DELUSER", "old")


def test_a_full_redis_refuses_nothing_because_of_the_feed(followed: Store, redis_client: Any) -> None:
    """What a full server takes without a reader, it takes with one: what frees memory."""
    waiting, ended, running_one = create(followed), running(followed), running(followed)
    expire_lease(followed, running_one.id)
    followed.finish(ended, FINISHED)
    redis_client.config_set("maxmemory", 1)
    try:
        followed.cancel(waiting, reason="r", actor=ME)
        assert followed.crash_many([(running_one.id, running_one.token, NextStep(Outcome(RunState.CRASHED)))]) == [True]
        assert followed.delete(ended.id, who=ME, keep_s=60)
        assert followed.want_changes()
    finally:
        redis_client.config_set("maxmemory", 0)
    told = [(change.kind, change.fields.get("state", "")) for change in followed.changes()[-3:]]
    assert told == [("run", "Killed"), ("run", "Crashed"), ("gone", "")]
