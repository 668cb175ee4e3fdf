"""deploy/redis: real commands as each user of a real server; its ACL LOG tells what was refused."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from launch_worker import submit
from launch_worker.archive.follow import Archive
from launch_worker.archive.status import status
from launch_worker.database.database import Database
from launch_worker.errors import ForbiddenError
from launch_worker.model.finding import Finding
from launch_worker.model.run import Record
from launch_worker.model.states import RunState
from launch_worker.notifications.channel import Channel, new_secret
from launch_worker.notifications.deliver import Deliverer
from launch_worker.notifications.senders.senders import Senders
from launch_worker.settings import Settings
from launch_worker.store import keys
from launch_worker.store.store import Store
from tests.conftest import wait_until
from tests.support.arrows import FINISHED, create
from tests.support.guarded import CONFIG, USERS, Guarded
from tests.support.ports import own_port
from tests.support.receivers import receiving
from tests.support.servers import SERVER_IDS, SERVERS
from tests.system.conftest import Cluster, Result, wait_for_output


# In Redis 7.0 a refusal reads differently than in newer servers.
@pytest.fixture(params=SERVERS, ids=SERVER_IDS)
def guarded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Guarded]:
    made = Guarded(request.param, tmp_path, is_direct=True)
    yield made
    made.close()


@pytest.fixture
def cluster(guarded: Guarded, tmp_path: Path) -> Iterator[Cluster]:
    """Its parts are the worker user's."""
    made = Cluster(guarded.url("worker"), tmp_path)
    yield made
    made.close()


def claim(store: Store, run_id: str) -> Record:
    """Claim a run as a worker that consumes its queue."""
    store.heartbeat([], owner="owner1", worker="w@h", lease_s=30, gone_s=30, description={}, queues=["default"])
    record, why = store.claim(run_id, 1, owner="owner1", worker="w@h", host="h", lease_s=30)
    assert record is not None, why
    return record


SWEEP = """
method: grid
parameters:
  x: {values: [1, 2, 3]}
command: ["true", "${args}"]
"""


def as_user(cluster: Cluster, guarded: Guarded, user: str, *command: str) -> Result:
    return cluster.run(*command, env={"LAUNCH_REDIS_URL": guarded.url(user)})


# On the other server `.ci/run` has the main path log in as these users.
@pytest.mark.parametrize("guarded", SERVERS[:1], ids=SERVER_IDS[:1], indirect=True)
def test_a_system_works_with_a_user_for_each_of_its_parts(cluster: Cluster, guarded: Guarded) -> None:
    """Submit, look, wait, cancel, retry, pass, inspect, drain: and the server refused nothing."""
    worker = cluster.worker("default,gpu")
    cluster.beat()

    def producer(*command: str) -> str:
        result = as_user(cluster, guarded, "producer", *command)
        assert result.code == 0, (command, result)
        return result.out

    run = producer("launch-submit", "--quiet", "-q", "gpu", "--", "sh", "-c", "echo hello").strip()
    producer("launch-worker", "wait", run)
    slow = producer("launch-submit", "--quiet", "--priority", "high", "--", "sh", "-c", "echo begun; sleep 60").strip()
    wait_for_output(cluster.api.run(slow), b"begun")
    wait_until(lambda: '"cpu_s"' in producer("launch-worker", "metrics", "--json", slow), what="its worker tells")
    assert "does not answer" in as_user(cluster, guarded, "viewer", "launch-worker", "report", slow).err
    [refused] = guarded.refused()
    assert refused.startswith("viewer: "), refused
    producer("launch-worker", "cancel", "--now", slow)
    assert cluster.api.run(slow).wait(20) is RunState.KILLED
    later = producer("launch-submit", "--quiet", "-q", "nobody", "--project", "me/iris", "--", "true").strip()
    producer("launch-worker", "cancel", later)
    again = producer("launch-submit", "--quiet", "--retries", "1", "--retry-delay", "1s", "--", "false").strip()
    assert cluster.api.run(again).wait(20) is RunState.FAILED
    producer("launch-worker", "retry", run)
    assert cluster.api.run(run).wait(20) is RunState.FINISHED

    (cluster.folder / "code").mkdir()
    (cluster.folder / "code" / "hello").write_text("uploaded\n")
    for _ in range(2):
        sent = producer("launch-submit", "--quiet", "--upload", "code", "--", "cat", "hello").strip()
        assert cluster.api.run(sent).wait(20) is RunState.FINISHED
        assert cluster.api.run(sent).logs() == b"uploaded\n"

    for admin in (("pools", "create", "lab"), ("queues", "set", "gpu", "--limit", "1", "--pool", "lab")):
        assert as_user(cluster, guarded, "admin", "launch-worker", *admin).code == 0
    ids = producer("launch-submit", "--quiet", "-q", "gpu", "--array", "0-3%2", "--", "true").split()
    ids.append(producer("launch-submit", "--quiet", "-q", "gpu", "--after", ids[0], "--", "true").strip())
    ids.append(producer("launch-submit", "--quiet", "--delay", "1s", "--expires", "1m", "--", "true").strip())
    ids.append(producer("launch-submit", "--quiet", "--concurrency-key", "k", "--cpus", "1", "--", "true").strip())
    for run_id in ids:
        assert cluster.api.run(run_id).wait(20) is RunState.FINISHED
    (cluster.folder / "jobs.jsonl").write_text('{"command": ["true"]}\n' * 150)
    first, *_ = producer("launch-submit", "--quiet", "--from-file", "jobs.jsonl", "-q", "gpu").split()
    then = producer("launch-submit", "--quiet", "-q", "gpu", "--after", f"b{first}", "--", "true").strip()
    for words in (("wait", f"b{first}", then), ("retry", f"b{first}"), ("wait", f"b{first}")):
        producer("launch-worker", *words)
    first, *_ = producer("launch-submit", "--quiet", "--from-file", "jobs.jsonl", "-q", "nobody").split()
    producer("launch-worker", "cancel", f"b{first}")
    producer("launch-worker", "delete", then)
    waiting = producer("launch-submit", "--quiet", "--gpus", "8", "--", "true").strip()
    wait_until(lambda: cluster.api.run(waiting).record.reason == "waiting for 8 GPUs", what="it waits for GPUs")
    producer("launch-worker", "delete", waiting)
    preempted = producer("launch-submit", "--quiet", "--", "sh", "-c", "echo begun; sleep 60").strip()
    wait_for_output(cluster.api.run(preempted), b"begun")
    producer("launch-worker", "preempt", preempted)
    wait_until(lambda: cluster.api.run(preempted).record.attempt == 2, what="it runs again")
    producer("launch-worker", "cancel", "--now", preempted)
    producer("launch-submit", "--cron", "0 3 * * *", "--cron-name", "nightly", "--", "true")
    producer("launch-worker", "schedules", "delete", "nightly")
    (cluster.folder / "sweep.yaml").write_text(SWEEP)
    sweep = producer("launch-worker", "sweep", "create", "sweep.yaml", "--workers", "2", "--json")
    wait_until(lambda: cluster.api.sweep(json.loads(sweep)["id"]).state == "FINISHED", what="the sweep is over")

    looks: list[tuple[str, ...]] = [("runs", "--state", "finished", "--queue", "gpu")]
    looks += [(look, run) for look in ("show", "explain", "wait", "logs", "report")]
    for command in looks:
        producer("launch-worker", *command)
    for command in (*looks, ("status",), ("workers",), ("doctor",), ("queues",), ("pools",), ("sweep", "list")):
        result = as_user(cluster, guarded, "viewer", "launch-worker", *command)
        assert result.code == 0, (command, result)

    assert as_user(cluster, guarded, "admin", "launch-worker", "queues", "set", "gpu", "--description", "x").code == 0
    assert "OK" in cluster.run("celery", "-A", "launch_worker", "inspect", "ping").out
    name = cluster.api.store.workers()[0]["worker"]
    assert as_user(cluster, guarded, "admin", "launch-worker", "workers", "drain", name).code == 0
    assert worker.wait(30) == 0, worker.log
    assert "NOPERM" not in "".join(part.log for part in cluster.parts)
    assert guarded.refused() == []


def test_a_killed_workers_runs_are_crashed_by_the_workers_user(cluster: Cluster, guarded: Guarded) -> None:
    worker = cluster.worker()
    run = submit(["sh", "-c", "echo begun; sleep 60"], api=guarded.api("producer"))
    wait_for_output(run, b"begun")
    worker.kill()
    cluster.beat()
    assert cluster.api.run(run.id).wait(20) is RunState.CRASHED
    cluster.api.store.heal(["gpu"])
    guarded.admin.set("gpu", "not a list")
    cluster.api.store.heal(["gpu"])
    assert guarded.refused() == []


def test_flower_works_as_the_workers_user(cluster: Cluster, guarded: Guarded) -> None:
    port = own_port()
    cluster.worker()
    flower = cluster.celery("flower", f"--port={port}", "--address=127.0.0.1", name="flower")
    wait_until(lambda: "Connected to redis" in flower.log, what="flower is up")
    cluster.api.store.now_us()
    assert guarded.refused() == []


DENIED: dict[str, list[tuple[str, ...]]] = {
    "producer": [
        *(("flushall",), ("flushdb",), ("config", "get", "*"), ("keys", "*"), ("scan", "0"), ("acl", "list")),
        *(
            ("shutdown",),
            ("monitor",),
            ("client", "list"),
            ("client", "kill", "id", "1"),
            ("del", "launch:runs"),
            ("set", "launch:run:x", "1"),
            ("del", "launch:queue:gpu"),
        ),
        *(("set", "launch:settling", "1"), ("hset", "launch:queue:gpu", "config", "{}"), ("eval", "return 1", "0")),
        *(("zadd", "launch:workers", "1", "x"), ("zadd", "launch:consumers:gpu", "1", "x")),
        *(
            ("hset", "launch:passes", "a", "1"),
            ("hset", "launch:counters", "a", "1"),
            ("sadd", "_kombu.binding.x", "y"),
        ),
        *(("publish", "launch:admin:x", "{}"), ("publish", "/0.celery.pidbox", "{}"), ("psubscribe", "*")),
        *(("brpop", "gpu", "1"), ("rpop", "gpu"), ("script", "flush"), ("replicaof", "h", "1")),
        *(("function", "flush"), ("function", "load", "#!lua name=x"), ("function", "delete", "x")),
        *(("evalsha", "0" * 40, "0"), ("script", "load", "return 1"), ("hset", "launch:free:x", "slots", "9")),
        *(("lpush", "launch.direct.x", "an item"), ("linsert", "launch.direct.x", "before", "a", "b")),
        ("lpush", "launch.wake.x", "an element"),
    ],
    "archive": [
        *(("flushall",), ("config", "get", "*"), ("keys", "*"), ("lpush", "gpu", "x"), ("brpop", "gpu", "1")),
        *(("hset", "launch:run:x", "a", "b"), ("del", "launch:run:x"), ("set", "launch:run:x:deleted", "1")),
        *(("zadd", "launch:runs", "1", "x"), ("zrem", "launch:leases", "x"), ("hset", "launch:queue:gpu", "a", "b")),
        *(("publish", "launch:orders:x", "{}"), ("publish", "launch:admin:x", "{}"), ("subscribe", "launch:orders:x")),
        *(("rename", "launch:runs", "launch:damaged:x"), ("del", "launch:ended"), ("set", "launch:settling", "1")),
        *(("eval", "return 1", "0"), ("script", "load", "return 1"), ("function", "load", "#!lua name=x")),
    ],
    "viewer": [
        *(
            ("flushall",),
            ("config", "get", "*"),
            ("keys", "*"),
            ("lpush", "gpu", "x"),
            ("hset", "launch:run:x", "a", "b"),
        ),
        *(("zadd", "launch:runs", "1", "x"), ("set", "launch:settling", "1"), ("del", "launch:run:x")),
        *(("publish", "launch:orders:x", "{}"), ("publish", "launch:news:x", "x"), ("subscribe", "launch:orders:x")),
        *(("evalsha", "0" * 40, "0"), ("script", "load", "return 1"), ("sadd", "launch:queues", "x")),
        *(("fcall", "x", "0"), ("function", "load", "#!lua name=x")),
    ],
    "worker": [
        *(("flushall",), ("config", "get", "*"), ("keys", "*"), ("acl", "list"), ("shutdown",), ("client", "list")),
        *(("hset", "launch:queue:gpu", "config", "{}"), ("del", "launch:queue:gpu"), ("set", "launch:other", "1")),
        *(("eval", "return 1", "0"), ("script", "flush")),
        *(("function", "flush"), ("function", "delete", "x"), ("function", "dump")),
    ],
    "server": [
        *(("flushall",), ("lpush", "launch.direct.x", "an item"), ("function", "load", "#!lua name=x")),
        *(
            ("lpush", "launch.wake.x", "an element"),
            ("zadd", "launch:workers", "1", "x"),
            ("hset", "launch:passes", "a", "1"),
            ("eval", "return 1", "0"),
        ),
    ],
    "server-reader": [("lpush", "gpu", "x"), ("publish", "launch:news:x", "x"), ("fcall", "x", "0")],
    "scaler": [("lrange", "gpu", "0", "-1"), ("get", "launch:run:x"), ("publish", "x", "y")],
}


def test_an_archive_follows_and_confirms_as_its_user(guarded: Guarded) -> None:
    """What producers and workers do comes into the feed, and the feed is mended by its reader."""
    archive, producer, worker = (guarded.api(user) for user in ("archive", "producer", "worker"))
    assert not archive.store.want_changes()
    archive.store.register_archive("a")
    run = submit(["true"], api=producer)
    record = claim(worker.store, run.id)
    worker.store.finish(record, FINISHED)
    run.retry()
    run.delete()
    worker.store.goodbye("owner1", queues=["default"])
    changes = archive.store.changes()
    assert [change.fields.get("what") or change.fields.get("state", change.kind) for change in changes] == [
        *("feed", "Pending", "appeared", "Running", "Finished", "Pending", "Killed", "gone", "left"),
    ]
    assert all(changes[at].fields["actor"].endswith(" as producer") for at in (1, 5, 6, 7))
    ended = claim(worker.store, submit(["true"], api=producer).id)
    worker.store.finish(ended, FINISHED)
    assert worker.store.retire(retention_s=0.0) == 0
    assert archive.store.confirm_archived(archive.store.unarchived()) == 1
    assert [run_id for page in archive.store.all_run_ids() for _, run_id in page] == [ended.id]
    assert [outline.id for outline in archive.store.outlines_of([ended.id])] == [ended.id]
    assert worker.store.retire(retention_s=0.0) == 1
    guarded.admin.set(keys.CHANGES, "no stream")
    assert not archive.store.want_changes()
    guarded.admin.xadd(keys.CHANGES, {"kind": "run"}, id=f"{(1 << 64) - 1}-1")
    assert not archive.store.want_changes()
    assert [change.kind for change in archive.store.changes()] == ["feed"]
    for api in (archive, producer, worker):
        api.store.close()
    assert guarded.refused() == []


@pytest.mark.parametrize("user", DENIED)
def test_what_is_not_a_users_work_is_refused(guarded: Guarded, user: str) -> None:
    client = guarded.client(user)
    for command in (*DENIED[user], ("select", "5")):
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.execute_command(*command)
    client.close()


def test_a_function_does_no_more_than_its_caller_may(guarded: Guarded) -> None:
    client = guarded.client("producer")
    programs = {
        "configure": "redis.call('HSET', 'launch:queue:gpu', 'config', '{}')",
        "flush": "redis.call('FLUSHALL')",
        "pose": "redis.call('ZADD', 'launch:workers', 1, 'x')",
    }
    code = "\n".join(
        f"redis.register_function('{name}', function() return {call} end)" for name, call in programs.items()
    )
    guarded.admin.function_load(f"#!lua name=own\n{code}")
    for name in programs:
        with pytest.raises(redis.exceptions.ResponseError, match="script"):
            client.fcall(name, 0)
    assert guarded.admin.exists("launch:queue:gpu", "launch:workers") == 0
    client.close()


def test_a_producer_waits_for_a_worker_that_loads_the_functions(cluster: Cluster, guarded: Guarded) -> None:
    guarded.admin.function_flush()
    result = as_user(cluster, guarded, "producer", "launch-submit", "--", "true")
    assert (result.code, result.out, result.err.count("\n")) == (69, "", 1)
    assert "does not have the functions of this version" in result.err
    with pytest.raises(ForbiddenError, match="start a worker or beat of this version"):
        submit(["true"], api=guarded.api("producer"))
    guarded.api("worker").store.heal([])
    assert as_user(cluster, guarded, "producer", "launch-submit", "--", "true").code == 0


def test_a_refusal_is_one_clear_sentence(cluster: Cluster, guarded: Guarded) -> None:
    guarded.admin.rpush("gpu", "x")
    for command in (
        ("launch-submit", "--", "true"),
        ("launch-worker", "queues", "create", "sim", "--description", "x"),
    ):
        result = as_user(cluster, guarded, "viewer", *command)
        assert (result.code, result.out) == (69, "")
        assert result.err.count("\n") == 1
        assert "may not do this" in result.err
    result = as_user(cluster, guarded, "producer", "launch-worker", "queues", "create", "sim", "--description", "x")
    assert (result.code, "may not do this" in result.err) == (69, True)
    assert "viewer-pw" not in result.err


def test_nobody_can_look_without_a_login_and_no_user_has_a_password_as_shipped(guarded: Guarded) -> None:
    nobody = redis.Redis(port=guarded.port)
    with pytest.raises(redis.exceptions.AuthenticationError):
        nobody.ping()
    nobody.close()
    shipped = "".join((CONFIG / name).read_text() for name in USERS)
    rules = [line.split() for line in shipped.splitlines() if line.startswith("user ")]
    assert [rule[1] for rule in rules] == ["default", *(user for users in USERS.values() for user in users)]
    assert not any(word.startswith((">", "#", "nopass")) for rule in rules for word in rule)


def test_a_restart_keeps_what_was_acknowledged(guarded: Guarded) -> None:
    """Redis reads its append-only file as the default user, who must be allowed what functions do."""
    runs = [submit(["true"], api=guarded.api("producer")).id for _ in range(3)]
    claim(guarded.api("worker").store, runs[0])
    before = {record.id: record for record in guarded.api("admin").store.runs()}
    guarded.restart()
    assert {record.id: record for record in guarded.api("admin").store.runs()} == before
    assert before.keys() == set(runs)

    def said() -> Finding:
        return next(finding for finding in guarded.api("admin").findings() if finding.name == "redis.aof")

    assert said().level == "ok"
    guarded.admin.execute_command("ACL", "SETUSER", "default", "resetkeys", "-@all")
    assert (said().level, "lose at its next restart" in said().cause) == ("error", True)
    # So it is wherever a launch system is shipped with users of Redis.
    [rights] = re.findall(r"^user default (.*)", (CONFIG / "users.conf").read_text(), flags=re.MULTILINE)
    for name, line in (("docker-compose.yml", f'direct="{rights}"'), ("deploy/kubernetes/redis.yaml", rights)):
        assert line in (CONFIG.parents[1] / name).read_text()


def test_every_queue_name_is_the_producers(guarded: Guarded) -> None:
    """Also those that begin as the system's own keys do."""
    worker, api = guarded.client("worker"), guarded.api("producer")
    for name in ("default", "gpu", "l", "la", "launch", "launches", "lau-n", "launch.x", "K", "9"):
        assert submit(["true"], queue=name, api=api).state is RunState.PENDING
        assert sum(worker.llen(queue_list) for queue_list in keys.queue_lists(name)) == 1
    worker.close()


def test_viewers_and_producers_can_look_while_no_worker_and_no_beat_is_alive(
    cluster: Cluster, guarded: Guarded
) -> None:
    run = submit(["true"], api=guarded.api("producer"))
    for user in ("producer", "viewer"):
        assert run.id in as_user(cluster, guarded, user, "launch-worker", "runs", "--json").out
        assert as_user(cluster, guarded, user, "launch-worker", "wait", "--timeout", "1", run.id).code == 1


def test_metrics_are_whole_for_whoever_may_only_look_and_what_each_user_does_is_counted(
    cluster: Cluster, guarded: Guarded
) -> None:
    worker = Store(guarded.url("worker"))
    # The functions are loaded by who may.
    worker.heal([])
    producer = Store(guarded.url("producer"))
    run_id = create(producer)
    worker.finish(claim(worker, run_id), FINISHED)
    for store in (worker, producer):
        store.close()
    for user in ("viewer", "server-reader", "archive"):
        told = as_user(cluster, guarded, user, "launch-worker", "exporter", "--once")
        assert told.code == 0, told
        for line in (
            'launch_runs_submitted_total{queue="default"} 1.0',
            'launch_runs_ended_total{queue="default",state="Finished"} 1.0',
            "launch_wait_seconds_count 1.0",
            "launch_feed_entries 0.0",
            "launch_redis_saved 1.0",
            "launch_notices_waiting 0.0",
        ):
            assert line in told.out, user
    assert guarded.refused() == []


def test_the_server_keeps_what_a_launch_system_needs(guarded: Guarded) -> None:
    config = guarded.admin.config_get("*")
    assert (config["appendonly"], config["appendfsync"]) == ("yes", "everysec")
    assert (config["maxmemory-policy"], config["maxmemory"]) == ("noeviction", str(4 << 30))
    assert os.path.isdir(guarded.folder / "appendonlydir")


def test_the_archives_process_does_all_its_work_as_its_user(guarded: Guarded, tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'archive.db'}")
    archive = Archive(guarded.api("archive").store, database, stopping=threading.Event(), settle_s=0.0)
    store = guarded.api("worker").store
    run_id = create(store)
    archive.lead()
    store.finish(claim(store, run_id), FINISHED)
    while archive.step(wait_s=0.0):
        pass
    found = status(database, guarded.api("archive").store)
    assert (found.counts, found.lag_s) == ({"Finished": 1}, 0.0)
    assert not store.unarchived()
    archive.release()
    database.close()
    assert guarded.refused() == []


def test_notices_go_from_the_users_of_submitters_and_workers_to_that_of_the_archive(
    cluster: Cluster, guarded: Guarded
) -> None:
    """A run that fails, one that is cancelled, and a group, told by a sender with the archive's user."""
    cluster.worker()
    with receiving() as receiver:
        channel = Channel("ops", "webhook", address=receiver.url, secret=new_secret())
        store = Store(guarded.url("archive"))
        deliverer = Deliverer(store, lambda: [channel], Senders(Settings.from_env({}, redis_url=store.url)))
        deliverer.start()
        wait_until(lambda: store.notice_channels() == ("ops",), what="it sends")
        for words in (("-q", "nobody"), ("--retries", "1"), ("--array", "0-1")):
            sent = as_user(
                cluster, guarded, "producer", "launch-submit", "--quiet", *words, "--notify", "ops", "--", "false"
            )
            assert sent.code == 0, sent
            if "nobody" in words:
                assert as_user(cluster, guarded, "producer", "launch-worker", "cancel", sent.out.strip()).code == 0
        wait_until(lambda: len(receiver.got) == 3, what="all is told")
        wait_until(lambda: not store.outbox_state().waiting, what="nothing waits")
        assert store.notify("ops", "rule.1", {"alarm": "{}"})
        wait_until(lambda: len(receiver.got) == 4, what="the rule is told")
        deliverer.stop()
        store.close()
    assert guarded.refused() == []
