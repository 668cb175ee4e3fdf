"""Rules find what they watch for on a real Redis, tell it once, and fall silent when it is over."""

from __future__ import annotations

import json
from typing import Any

import pytest

from launch_worker.database.audit import write_act
from launch_worker.database.database import Database
from launch_worker.errors import InputError, NotFoundError, RefusedError
from launch_worker.model.run import Record
from launch_worker.notifications.channels import Channels
from launch_worker.notifications.deliver import Deliverer
from launch_worker.notifications.message import Alarm
from launch_worker.notifications.rules import Rules
from launch_worker.notifications.senders.senders import Senders
from launch_worker.settings import Settings
from launch_worker.store import keys
from launch_worker.store.store import Store
from tests.conftest import wait_until
from tests.support.arrows import claim, create, running
from tests.support.receivers import receiving
from tests.support.redis_client import redis_of

#: What differs between the databases is tested with the channels.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
HOUR_US = 3600 * 1_000_000


class Watch:
    """Rules with a clock that a test puts forward, and what they have told."""

    def __init__(self, store: Store, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.channels = Channels(database, actor="root")
        self.channels.add("ops", "webhook", "http://127.0.0.1:1/x")
        self.told: list[tuple[str, str, Alarm]] = []
        self.ahead_us = 0
        real = store.now_us
        monkeypatch.setattr(store, "now_us", lambda: real() + self.ahead_us)
        self._parts = store, database
        self.start_anew()

    def start_anew(self) -> None:
        """As another process, or this one after its death."""
        self._rules = Rules(*self._parts, tell=lambda *told: self.told.append(told))

    def look(self, *, hours: float = 0.0) -> list[Alarm]:
        """What a look tells after these hours."""
        self.ahead_us += int(hours * HOUR_US)
        self._rules._next.clear()
        self.told.clear()
        self._rules.look()
        return [alarm for _, _, alarm in self.told]


@pytest.fixture
def watch(store: Store, database: Database, monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(store, database, monkeypatch)


def beat_with(store: Store, record: Record, *, name: str = "w@h", percent: int | None = 0) -> None:
    """The heartbeat of a worker with a GPU that the run holds."""
    device = {"id": "0", "runs": [record.id], "use": {"percent": percent}}
    room = {"total": 1, "free": 0}
    said: dict[str, Any] = {
        "owner": "owner1",
        "worker": name,
        "queues": ["default"],
        "slots": 1,
        "running": 1,
        "host": "h",
        "pid": 1,
    }
    store.heartbeat(
        [(record.id, record.token, record.attempt)],
        owner="owner1",
        worker=name,
        lease_s=30.0,
        gone_s=60.0,
        description={**said, "state": "running", "devices": [device], "cpus": room, "memory": room},
        queues=["default"],
    )


def test_runs_that_wait_too_long_are_told_once_a_queue_until_they_wait_no_more(store: Store, watch: Watch) -> None:
    watch.channels.add_rule("slow", "waiting", "ops", seconds=7200)
    create(store, name="first")
    create(store, priority="high")
    create(store, delay_s=9e6)
    assert watch.look(hours=1) == []
    [alarm] = watch.look(hours=2)
    assert (alarm.rule, alarm.kind, alarm.subject) == ("slow", "queue", "default")
    assert alarm.sentence.startswith("In queue default, 2 runs wait for more than 2 h; ")
    channel, alarm_id, _ = watch.told[0]
    assert channel == "ops"
    assert alarm_id.startswith("rule-")
    assert watch.look(hours=1) == []
    watch.start_anew()
    assert watch.look() == [], "a process that starts anew tells nothing again"
    for record in list(store.runs({"state": {"Pending"}})):
        store.cancel(record.id, reason="x", actor="")
    assert watch.look() == []
    create(store)
    assert [one.subject for one in watch.look(hours=3)] == ["default"]
    assert watch.told[0][1] != alarm_id, "it is another time"


def test_a_finding_that_could_not_be_told_is_told_by_the_next_look(store: Store, watch: Watch) -> None:
    watch.channels.add_rule("slow", "waiting", "ops", seconds=60)
    create(store)
    watch.ahead_us = HOUR_US
    rules = Rules(*watch._parts, tell=_refuse)
    with pytest.raises(ZeroDivisionError):
        rules.look()
    assert len(watch.look()) == 1


def _refuse(*_: object) -> None:
    raise ZeroDivisionError


def test_a_rule_watches_its_queue_and_its_project_only(store: Store, watch: Watch) -> None:
    watch.channels.add_rule("mine", "waiting", "ops", seconds=60, project="lab/x")
    watch.channels.add_rule("there", "waiting", "ops", seconds=60, queue="gpu")
    create(store, project="lab/y")
    assert watch.look(hours=1) == []
    create(store, project="lab/x")
    create(store, queue="gpu", project="lab/y")
    told = {(alarm.rule, alarm.subject, alarm.values["runs"]) for alarm in watch.look(hours=1)}
    assert told == {("mine", "default", "1"), ("there", "gpu", "1")}


def test_a_queue_without_a_worker_is_told_until_one_comes(store: Store, watch: Watch) -> None:
    watch.channels.add_rule("unserved", "unserved", "ops", seconds=60)
    record = running(store)
    create(store)
    assert watch.look() == []
    [alarm] = watch.look(hours=1)
    assert alarm.sentence == "No worker consumes queue default: 1 run waits there for more than 1 min."
    assert alarm.command == "celery -A launch_worker worker -Q default"
    beat_with(store, record)
    assert watch.look() == []
    store.goodbye("owner1", queues=["default"])
    store.configure("queue", "default", {"paused": "1"})
    assert watch.look() == [], "a queue that an admin has paused is not served on purpose"
    store.configure("queue", "default", {"paused": None})
    assert len(watch.look()) == 1


def test_a_run_without_output_is_told_and_one_that_prints_is_not(store: Store, watch: Watch) -> None:
    watch.channels.add_rule("silent", "silent", "ops", seconds=1800)
    quiet, loud = running(store, name="quiet"), running(store, name="loud")
    store.append_log(quiet.id, quiet.attempt, b"begins\n", offset=0)
    store.append_log(loud.id, loud.attempt, b"begins\n", offset=0)
    assert watch.look() == []
    [first, second] = watch.look(hours=1)
    assert {first.subject, second.subject} == {quiet.id, loud.id}
    assert "is silent. Its last output came 1 h ago." in first.sentence
    assert first.command == f"launch-worker logs {first.subject}"
    watch.ahead_us = 0
    assert watch.look() == []


def test_many_silent_runs_are_one_notice(store: Store, watch: Watch) -> None:
    watch.channels.add_rule("silent", "silent", "ops", seconds=1800)
    for _ in range(8):
        running(store)
    [alarm] = watch.look(hours=1)
    assert alarm.values["others"] == "7"
    [rule] = watch.channels.rules()
    assert (rule.findings, rule.since) == (8, alarm.since)
    assert alarm.sentence.endswith("The same is so of 7 other runs.")
    assert watch.look() == []


def test_a_run_whose_gpus_are_idle_is_told_and_a_driver_that_says_nothing_is_no_reason(
    store: Store, watch: Watch, redis_client: Any
) -> None:
    watch.channels.add_rule("idle", "gpu-idle", "ops", seconds=1800)
    record = running(store, name="train")
    redis_client.hset(keys.run(record.id), "gpus", '["0"]')
    beat_with(store, record, percent=None)
    assert watch.look() == []
    assert watch.look(hours=1) == []
    beat_with(store, record, percent=1)
    [alarm] = watch.look(hours=0.6)
    assert "holds 1 GPU, idle for 36 min." in alarm.sentence
    assert watch.look(hours=1) == []
    beat_with(store, record, percent=50)
    assert watch.look() == []
    beat_with(store, record, percent=0)
    assert watch.look() == []
    assert [one.subject for one in watch.look(hours=0.6)] == [record.id]


def test_a_worker_that_was_lost_is_told_until_it_is_back(store: Store, watch: Watch, database: Database) -> None:
    watch.channels.add_rule("lost", "worker-lost", "ops")
    record = claim(store, create(store))
    with database.writing() as connection:
        write_act(connection, actor="", what="appeared", kind="worker", target="o9", detail={"worker": "w@h"})
        write_act(connection, actor="", what="left", kind="worker", target="o8")
        write_act(connection, actor="", what="lost", kind="worker", target="o9")
    [alarm] = watch.look()
    assert (alarm.kind, alarm.subject, alarm.values["owner"]) == ("worker", "w@h", "o9")
    assert watch.look() == []
    beat_with(store, record, name="w@h")
    assert watch.look() == []


def test_what_a_rule_finds_reaches_its_channel_once(store: Store, database: Database) -> None:
    with receiving() as receiver:
        channels = Channels(database)
        channels.add("ops", "slack", receiver.url)
        channels.add_rule("slow", "waiting", "ops", seconds=0.1)
        rules = Rules(store, database, tell=lambda to, name, alarm: store.notify(to, name, {"alarm": alarm.as_text()}))
        looks = 0

        def look() -> None:
            nonlocal looks
            rules.look()
            looks += 1

        deliverer = Deliverer(store, channels.all, Senders(Settings()), look=look, look_s=0.1)
        deliverer.start()
        try:
            create(store, name="<!channel>")
            wait_until(lambda: receiver.got, what="a notice")
            create(store)
            before = looks
            wait_until(lambda: looks > before + 3, what="more looks")
        finally:
            deliverer.stop()
    [(_, _, body)] = receiver.got
    text = json.loads(body)["text"]
    assert text.startswith(
        "*Alarm* `slow`\n```\nIn queue default, 1 run waits for more than 100 ms; &lt;!channel&gt; ("
    )


def test_a_notice_of_a_stranger_that_cannot_be_read_keeps_no_other_back(store: Store, database: Database) -> None:
    with receiving() as receiver:
        channels = Channels(database)
        channels.add("ops", "slack", receiver.url)
        store.keep_channels(["ops"])
        store.notify("ops", "bad", {"type": "run", "run": "x", "state": "Nonsense"})
        facts = json.dumps({"type": "run", "run": "x", "state": "Nonsense", "at": "no time"})
        redis = redis_of(store.url)
        redis.hset("launch:outbox:ops:notices", "bad.ops", facts)
        redis.zadd("launch:outbox:ops", {"bad.ops": "-inf"})
        redis.hset("launch:outbox:ops:tries", "bad.ops", "many")
        redis.hset("launch:outbox:ops:state", mapping={"failures": "some", "paused_until": "later"})
        store.notify("ops", "good", {"type": "rule.fired", "alarm": "{}"})
        deliverer = Deliverer(store, channels.all, Senders(Settings()), look_s=0.1)
        deliverer.start()
        try:
            wait_until(lambda: receiver.got, what="the good one")
        finally:
            deliverer.stop()


def test_rules_are_checked_and_hold_their_channel(watch: Watch) -> None:
    add = watch.channels.add_rule
    with pytest.raises(NotFoundError, match="no channel nowhere"):
        add("r", "waiting", "nowhere", seconds=1)
    with pytest.raises(InputError, match="say for how long"):
        add("r", "waiting", "ops")
    with pytest.raises(InputError, match="a rule watches for waiting, unserved"):
        add("r", "weather", "ops", seconds=1)
    with pytest.raises(InputError, match="leave out the queue"):
        add("r", "worker-lost", "ops", queue="gpu")
    with pytest.raises(InputError, match="leave out the project"):
        add("r", "unserved", "ops", project="lab/x")
    with pytest.raises(InputError, match="rule 'A B' is not allowed"):
        add("A B", "unserved", "ops")
    add("r", "waiting", "ops", seconds=7200, queue="gpu", project="lab/x")
    assert [rule.says() for rule in watch.channels.rules()] == [
        "waiting for more than 2 h in queue gpu of project lab/x"
    ]
    with pytest.raises(InputError, match="there is a rule r already"):
        add("r", "unserved", "ops")
    with pytest.raises(RefusedError, match="the rule r tells the channel ops"):
        watch.channels.delete("ops")
    watch.channels.delete_rule("r")
    with pytest.raises(NotFoundError, match="no rule r"):
        watch.channels.delete_rule("r")
    watch.channels.delete("ops")
