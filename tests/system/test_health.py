"""The probes of a real worker: over HTTP, by a file, by `launch-worker health`; and what an outage does to them."""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launch_worker import submit
from launch_worker.dev.redis_server import RedisServer
from launch_worker.model.states import RunState
from launch_worker.prometheus.metrics import WORKER
from tests.conftest import wait_until
from tests.support.ports import own_port
from tests.system.conftest import Cluster, break_machine, wait_for_output, waits_for


def probe(port: int, path: str) -> tuple[int, dict[str, Any]]:
    """Status and body; 0 when nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    except OSError:
        return 0, {}
    finally:
        connection.close()


def metrics(port: int) -> dict[str, float]:
    """The metrics of a worker by name."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    finally:
        connection.close()
    return {name: float(value) for name, value in (line.split() for line in lines if line[0] != "#")}


@pytest.fixture
def port(cluster: Cluster) -> int:
    """Where this test's worker answers."""
    made = own_port()
    cluster.env["LAUNCH_HEALTH_ADDRESS"] = str(made)
    return made


@pytest.fixture
def server() -> Iterator[RedisServer]:
    made = RedisServer(aof="always")
    made.start()
    yield made
    made.stop()


def test_a_worker_that_takes_runs_is_alive_healthy_and_ready(cluster: Cluster, port: int) -> None:
    cluster.worker()
    for path in ("/live", "/health", "/ready"):
        status, body = probe(port, path)
        assert (status, body["ok"]) == (200, True), body
    assert probe(port, "/else")[0] == 404
    told = metrics(port)
    assert {told[f"launch_worker_{name}"] for name in ("live", "healthy", "ready")} == {1.0}
    assert (told["launch_worker_slots"], told["launch_worker_running"]) == (2.0, 0.0)
    assert told["launch_worker_disk_free_bytes"] > 0
    assert set(told) == {metric.name for metric in WORKER}
    for options in ([], ["--ready"], ["--live"]):
        assert cluster.run("launch-worker", "health", *options).code == 0
    asked = cluster.run("launch-worker", "health", "--ready", "--json")
    assert json.loads(asked.out) == {"ok": True, "reason": "the worker takes runs"}


def test_a_draining_worker_is_healthy_and_not_ready(cluster: Cluster, port: int) -> None:
    cluster.worker()
    run = submit(["sh", "-c", f"echo begun; {waits_for(cluster.folder / 'end')}"], api=cluster.api)
    wait_for_output(run, b"begun")
    assert cluster.run("launch-worker", "workers", "drain", cluster.api.store.workers()[0]["worker"]).code == 0
    wait_until(lambda: probe(port, "/ready")[0] == 503, what="it is not ready")
    assert "drains" in probe(port, "/ready")[1]["reason"]
    assert probe(port, "/health")[0] == 200
    (cluster.folder / "end").touch()
    assert run.wait(20) is RunState.FINISHED
    cluster.parts[0].wait(20)
    gone = cluster.run("launch-worker", "health")
    assert gone.code == 1
    assert gone.err.startswith(f"no worker answers at 127.0.0.1:{port}")


def test_a_worker_in_quarantine_is_not_ready_and_says_why(cluster: Cluster, port: int) -> None:
    cluster.worker()
    break_machine(cluster)
    submit(["true"], api=cluster.api)
    wait_until(lambda: probe(port, "/ready")[0] == 503, what="it is not ready")
    assert "not be started" in probe(port, "/ready")[1]["reason"]
    assert probe(port, "/health")[0] == 200
    asked = cluster.run("launch-worker", "health", "--ready")
    assert asked.code == 1
    assert "not be started" in asked.err


@pytest.mark.timeout(180)
def test_p39_health_is_503_after_30_s_without_redis_and_200_within_5_s_of_its_return(
    server: RedisServer, tmp_path: Path
) -> None:
    outage = Cluster(server.url, tmp_path)
    port, file = own_port(), tmp_path / "alive"
    # The heartbeat that people have, not the short one of tests.
    outage.env |= {"LAUNCH_HEARTBEAT_S": "5", "LAUNCH_LEASE_S": "30", "LAUNCH_HEALTH_FILE": str(file)}
    outage.env["LAUNCH_HEALTH_ADDRESS"] = str(port)
    try:
        outage.worker()
        server.kill()
        cut_at = time.monotonic()
        wait_until(lambda: probe(port, "/ready")[0] == 503, timeout_s=8, what="not ready once a call has failed")
        while time.monotonic() < cut_at + 24:
            assert probe(port, "/health")[0] == 200
            time.sleep(0.5)
        wait_until(lambda: probe(port, "/health")[0] == 503, timeout_s=8, what="not healthy")
        assert time.monotonic() - cut_at <= 31
        assert "Redis has not been reached" in probe(port, "/health")[1]["reason"]
        assert probe(port, "/live")[0] == 200
        by_file = {"LAUNCH_HEALTH_ADDRESS": ""}
        assert outage.run("launch-worker", "health", env=by_file).code == 1
        assert outage.run("launch-worker", "health", "--live").code == 0
        server.start()
        back_at = time.monotonic()
        wait_until(lambda: probe(port, "/health")[0] == 200, timeout_s=8, what="healthy again")
        assert time.monotonic() - back_at < 5
        wait_until(lambda: probe(port, "/ready")[0] == 200, timeout_s=5, what="ready again")
        assert outage.run("launch-worker", "health", env=by_file).code == 0
    finally:
        outage.close()


def test_the_file_alone_tells_of_a_worker_that_died(cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "alive"
    cluster.env["LAUNCH_HEALTH_FILE"] = str(file)
    before = cluster.run("launch-worker", "health")
    assert (before.code, "Redis was not reached yet" in before.err) == (1, True)
    worker = cluster.worker()
    assert cluster.run("launch-worker", "health").code == 0
    worker.kill()
    os.utime(file, (time.time() - 40, time.time() - 40))
    died = cluster.run("launch-worker", "health")
    assert died.code == 1
    assert died.err.startswith("Redis has not been reached for 4")


def test_without_address_and_file_redis_is_asked_for_the_worker_of_this_machine(cluster: Cluster) -> None:
    nobody = cluster.run("launch-worker", "health")
    assert (nobody.code, nobody.err) == (1, "Redis knows no live worker of this machine\n")
    cluster.worker()
    assert cluster.run("launch-worker", "health").code == 0
    assert cluster.run("launch-worker", "health", "--ready").code == 0
    away = cluster.run("launch-worker", "health", env={"LAUNCH_REDIS_URL": f"redis://127.0.0.1:{own_port()}"})
    assert away.code == 1
    assert "is not reachable" in away.err
    assert cluster.run("launch-worker", "health", "--live").code == 2


def test_a_second_worker_on_the_same_address_says_so_and_ends(cluster: Cluster, port: int) -> None:
    cluster.worker()
    second = cluster.worker(name="w2", wait=False)
    assert second.wait(30) == 1
    assert f"cannot listen on LAUNCH_HEALTH_ADDRESS 127.0.0.1:{port}" in second.log
    assert "Traceback" not in second.log


def test_beat_touches_the_file_after_each_pass(cluster: Cluster, tmp_path: Path) -> None:
    cluster.env["LAUNCH_HEALTH_FILE"] = str(tmp_path / "alive")
    cluster.beat()
    wait_until(lambda: cluster.run("launch-worker", "health").code == 0, what="beat is healthy")
