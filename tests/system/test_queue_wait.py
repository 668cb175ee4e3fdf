"""A free slot waits for the queues itself: what else comes by a queue, and what ends the wait, keep it from nothing."""

from __future__ import annotations

from typing import Any

from celery import Celery

from launch_worker import submit
from launch_worker.model.states import RunState
from tests.conftest import wait_until
from tests.support.redis_client import redis_of
from tests.system.conftest import Cluster


def waits_of(redis: Any) -> list[str]:
    """The ids of the connections on which workers wait."""
    return [client["id"] for client in redis.client_list() if "b" in client["flags"]]


def test_after_a_pass_in_its_queue_and_the_loss_of_its_wait_a_worker_takes_the_next_run(cluster: Cluster) -> None:
    worker = cluster.worker(slots=1)
    redis = redis_of(cluster.redis_url)
    app = Celery(broker=cluster.env["LAUNCH_REDIS_URL"], set_as_current=False)
    app.send_task("launch_worker.crash_stale_runs", queue="default")
    wait_until(lambda: "Task launch_worker.crash_stale_runs" in worker.log and "succeeded" in worker.log)
    wait_until(lambda: len(waits_of(redis)) == 1, what="one slot waits, and kombu does not")
    (killed,) = waits_of(redis)
    redis.client_kill_filter(_id=killed)
    assert submit(["true"], api=cluster.api).wait(30) is RunState.FINISHED
    wait_until(lambda: len(waits_of(redis)) == 1)
    assert waits_of(redis) != [killed]


def test_who_waits_changes_with_a_rate_limit_and_nobody_waits_without_a_free_slot(cluster: Cluster) -> None:
    (cluster.folder / "celeryconfig.py").write_text("worker_disable_rate_limits = False\n")
    cluster.worker(slots=1)
    redis = redis_of(cluster.redis_url)
    wait_until(lambda: len(waits_of(redis)) == 1)
    own = waits_of(redis)
    command = ("python", "-m", "celery", "-A", "launch_worker", "control", "rate_limit", "launch_worker.run")
    wait_until(lambda: "new rate limit set" in cluster.run(*command, "5/s").out)
    wait_until(lambda: len(waits_of(redis)) == 1 and waits_of(redis) != own, what="kombu waits")
    assert submit(["true"], api=cluster.api).wait(30) is RunState.FINISHED
    assert "new rate limit set" in cluster.run(*command, "0").out
    wait_until(lambda: waits_of(redis) == own, what="the slot waits")
    run = submit(["sleep", "600"], api=cluster.api)
    wait_until(lambda: run.refresh().state is RunState.RUNNING)
    wait_until(lambda: waits_of(redis) == [], what="no slot is free")
    run.cancel(grace_s=0)
    assert run.wait(20) is RunState.KILLED
    wait_until(lambda: waits_of(redis) == own)
