"""A Redis that answers and takes no writes: the worker says so, and goes on when it does again."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launch_worker import submit
from launch_worker.dev.redis_server import RedisServer
from launch_worker.model.states import RunState
from launch_worker.store.store import Store
from tests.conftest import wait_until
from tests.support.redis_client import redis_of
from tests.system.conftest import Cluster, wait_for_pid, waits_for


def test_a_worker_on_a_read_only_replica_says_so_and_goes_on(cluster: Cluster) -> None:
    worker = cluster.worker()
    run = submit(["sleep", "600"], api=cluster.api)
    wait_for_pid(run)
    store = redis_of(cluster.redis_url)
    # Nobody listens there: it is a replica that keeps what it has.
    store.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        # What breaks its connections, so that the consumer starts anew, with a Redis that refuses.
        for _ in range(3):
            store.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            store.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        wait_until(lambda: "redis.away" in worker.log, what="it says so")
        wait_until(lambda: worker.log.count("Connection to broker lost") >= 1, what="the consumer has lost it")
    finally:
        store.execute_command("REPLICAOF", "NO", "ONE")
    wait_until(lambda: "redis.back" in worker.log, what="it is back")
    assert submit(["true"], api=cluster.api).wait(30) is RunState.FINISHED
    assert worker.process.poll() is None
    for noise in ("Traceback", "Frequent restarts", "Error on"):
        assert noise not in worker.log
    assert "CPendingDeprecationWarning" not in worker.log
    assert len(worker.log.splitlines()) < 40, worker.log
    assert run.refresh().state in (RunState.RUNNING, RunState.CRASHED)
    run.cancel(grace_s=0)


def test_a_worker_whose_broker_refuses_it_says_so_once_and_goes_on(cluster: Cluster) -> None:
    """Its heartbeats are content: only what Celery's consumer needs is not allowed."""
    store = redis_of(cluster.redis_url)
    store.execute_command("ACL", "SETUSER", "half", "on", ">pw", "~*", "&*", "+@all", "-psubscribe")
    try:
        cluster.env["LAUNCH_REDIS_URL"] = re.sub("//[^@]*@", "//half:pw@", cluster.redis_url)
        worker = cluster.worker(wait=False)
        wait_until(lambda: "broker.refused" in worker.log, what="it says so")

        def num_refused() -> int:
            return int(store.info("commandstats")["cmdstat_psubscribe"]["rejected_calls"])

        lines, before = len(worker.log.splitlines()), num_refused()
        wait_until(lambda: num_refused() > before + 2, what="it tries again")
        assert len(worker.log.splitlines()) == lines
        assert "psubscribe" in worker.log
    finally:
        store.execute_command("ACL", "SETUSER", "half", "+psubscribe")
    assert submit(["true"], api=cluster.api).wait(30) is RunState.FINISHED
    assert "Traceback" not in worker.log
    worker.process.terminate()
    assert worker.wait(20) == 0
    store.execute_command("ACL", "DELUSER", "half")


def test_a_worker_that_starts_on_a_read_only_replica_waits(cluster: Cluster) -> None:
    store = redis_of(cluster.redis_url)
    store.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        worker = cluster.worker(wait=False)
        wait_until(lambda: "redis.away" in worker.log, what="it says so")
        assert "replica" in worker.log
    finally:
        store.execute_command("REPLICAOF", "NO", "ONE")
    assert submit(["true"], api=cluster.api).wait(30) is RunState.FINISHED
    for noise in ("Traceback", "Frequent restarts", "Error on"):
        assert noise not in worker.log
    worker.process.terminate()
    assert worker.wait(20) == 0


@pytest.fixture
def pair() -> Iterator[tuple[RedisServer, RedisServer]]:
    """Two servers, for one to be the other's replica."""
    made = RedisServer(), RedisServer()
    for server in made:
        server.start()
    yield made
    for server in made:
        server.stop()


def follow(store: Any, other: RedisServer) -> None:
    """Make a server the other's replica, and wait until it is like it."""
    store.config_set("masterauth", other.url.partition("//:")[2].partition("@")[0])
    store.replicaof("127.0.0.1", other.port)
    wait_until(lambda: store.info("replication")["master_link_status"] == "up", what="the replica is like its master")


@pytest.mark.main_path
def test_a_master_that_becomes_a_replica_and_is_promoted_again_costs_no_end_and_few_lines(
    pair: tuple[RedisServer, RedisServer], tmp_path: Path
) -> None:
    """As after a failover that a client was not told of, and the one back."""
    first, second = pair
    cluster = Cluster(first.url, tmp_path)
    stores = [Store(server.url) for server in pair]
    one, two = (redis_of(store.url) for store in stores)
    try:
        worker, beat = cluster.worker(slots=4), cluster.beat()
        follow(two, first)
        within = submit(["sh", "-c", f"{waits_for(tmp_path / 'within')}; exit 4"], api=cluster.api)
        beyond = submit(["sh", "-c", f"{waits_for(tmp_path / 'beyond')}; exit 5"], api=cluster.api)
        for run in (within, beyond):
            wait_for_pid(run)
        two.replicaof("NO", "ONE")
        follow(one, second)
        (tmp_path / "within").touch()
        for part in (worker, beat):
            wait_until(lambda part=part: "redis.away" in part.log, what="it says so")  # type: ignore[misc]
        refused = one.info("errorstats").get("errorstat_READONLY", {}).get("count", 0)
        wait_until(
            lambda: one.info("errorstats")["errorstat_READONLY"]["count"] > refused + 6, what="it was tried again"
        )
        one.replicaof("NO", "ONE")
        (tmp_path / "beyond").touch()
        assert submit(["true"], api=cluster.api).wait(20) is RunState.FINISHED
        assert within.wait(20) is RunState.FAILED
        assert beyond.wait(20) is RunState.FAILED
        assert (within.exit_code, beyond.exit_code) == (4, 5)
        for part in (worker, beat):
            wait_until(lambda part=part: "redis.back" in part.log, what="it is back")  # type: ignore[misc]
            assert "Traceback" not in part.log
            assert len(part.log.splitlines()) < 40, part.log
    finally:
        cluster.close()
        for store in stores:
            store.close()


def test_on_a_full_redis_nothing_new_begins_and_all_else_goes_on(
    pair: tuple[RedisServer, RedisServer], tmp_path: Path
) -> None:
    server = pair[0]
    cluster = Cluster(server.url, tmp_path)
    redis = redis_of(server.url)
    until = "until [ -e end ]; do sleep 0.05; done"
    options: dict[str, Any] = {"cwd": tmp_path, "api": cluster.api}
    try:
        worker, beat = cluster.worker(slots=4), cluster.beat()
        fails = submit(["sh", "-c", f"echo begun; {until}; echo ended; exit 4"], **options)
        again = submit(["sh", "-c", f"{until}; [ $LAUNCH_ATTEMPT = 2 ]"], retries=1, **options)
        stopped, left = (submit(["sleep", "600"], **options) for _ in range(2))
        for run in (fails, again, stopped, left):
            wait_for_pid(run)
        waits, dropped = (submit(["true"], **options) for _ in range(2))
        redis.config_set("maxmemory", redis.info("memory")["used_memory"] // 2)
        # Longer than a lease: the job with retries left would be ended, were its lease not renewed.
        since = time.monotonic()
        wait_until(lambda: time.monotonic() - since > 4, what="a lease is over")
        assert cluster.run("launch-worker", "cancel", stopped.id, dropped.id).code == 0
        (tmp_path / "end").touch()
        assert [run.wait(20) for run in (fails, stopped, dropped)] == [
            *(RunState.FAILED, RunState.KILLED, RunState.KILLED),
        ]
        assert (fails.exit_code, fails.logs()) == (4, b"begun\nended\n")
        wait_until(lambda: again.refresh().state is RunState.PENDING, what="its first attempt has ended")
        refused = cluster.run("launch-submit", "--", "true")
        assert (refused.code, refused.err.count("\n"), "is full (maxmemory)" in refused.err) == (69, 1, True)
        for words in (
            *(("runs",), ("show", fails.id), ("logs", fails.id), ("wait", fails.id), ("files", fails.id), ("status",)),
            *(("queues",), ("pools",), ("workers",), ("schedules",), ("sweep", "list"), ("delete", dropped.id)),
        ):
            done = cluster.run("launch-worker", *words)
            assert (done.code in (0, 4), "is full" in done.err) == (True, False), (words, done)
        worker.kill()
        heir = cluster.worker(name="heir", wait=False)
        assert left.wait(20) is RunState.CRASHED
        redis.config_set("maxmemory", 0)
        assert [run.wait(30) for run in (waits, again)] == [RunState.FINISHED] * 2
        assert again.refresh().attempt == 2
        for part in (worker, heir, beat):
            assert "Traceback" not in part.log, part.log
        # The heir's Celery needs room to begin.
        assert "redis.away" not in worker.log + beat.log, worker.log + beat.log
        assert "redis.full" in worker.log
    finally:
        cluster.close()
