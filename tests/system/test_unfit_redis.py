"""A Redis that answers and takes no writes: the worker says so, and goes on when it does again."""

from __future__ import annotations

import re
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
from tests.system.conftest import Cluster, wait_for_pid


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
        within = submit(["sh", "-c", "sleep 2; exit 4"], api=cluster.api)
        beyond = submit(["sh", "-c", "sleep 8; exit 5"], api=cluster.api)
        for run in (within, beyond):
            wait_for_pid(run)
        two.replicaof("NO", "ONE")
        follow(one, second)
        for part in (worker, beat):
            wait_until(lambda part=part: "redis.away" in part.log, what="it says so")  # type: ignore[misc]
        refused = one.info("errorstats").get("errorstat_READONLY", {}).get("count", 0)
        wait_until(
            lambda: one.info("errorstats")["errorstat_READONLY"]["count"] > refused + 6, what="it was tried again"
        )
        one.replicaof("NO", "ONE")
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
