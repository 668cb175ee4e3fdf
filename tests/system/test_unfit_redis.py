"""A Redis that answers and takes no writes: the worker says so, and goes on when it does again."""

from __future__ import annotations

import re

from launch_worker import submit
from launch_worker.states import RunState
from tests.conftest import wait_until
from tests.system.conftest import Cluster, wait_for_pid


def test_a_worker_on_a_read_only_replica_says_so_and_goes_on(cluster: Cluster) -> None:
    worker = cluster.worker()
    run = submit(["sleep", "600"], api=cluster.api)
    wait_for_pid(run)
    store = cluster.api.store._redis
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
    store = cluster.api.store._redis
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
    store = cluster.api.store._redis
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
