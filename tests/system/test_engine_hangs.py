"""Whole systems whose container engine hangs or dies: no run is executed twice, none is lost, and people are told."""

from __future__ import annotations

import gc
import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from launch_worker.api.client import Run, submit
from launch_worker.model.states import RunState
from tests.conftest import wait_until
from tests.support.arrows import claim
from tests.support.engine import busybox_root
from tests.support.engines import EngineProxy, OwnEngine
from tests.system.conftest import Cluster, Part, states, wait_for_output

#: The SDK leaves sockets of calls that were cut to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

IMAGE = "launch-worker-tests/busybox:1"
#: Counts its seconds into the folder that all machines share.
STAMPS = "while [ ! -e /x/stop ]; do echo $LAUNCH_ATTEMPT >> /x/stamps; sleep 0.1; done"


@pytest.fixture(scope="module")
def shared_own_engine() -> Iterator[OwnEngine]:
    if why := OwnEngine.why_not():
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    made = OwnEngine()
    made.load(busybox_root(), IMAGE)
    yield made
    made.close()


@pytest.fixture
def own_engine(shared_own_engine: OwnEngine, cluster: Cluster) -> Iterator[OwnEngine]:
    yield shared_own_engine
    shared_own_engine.thaw()
    (cluster.folder / "stop").touch()
    for found in shared_own_engine.containers(**{"launch.system": cluster.api.store.system()}):
        with shared_own_engine.client() as client:
            client.remove_container(found["Id"], force=True, v=True)
    gc.collect()


class Machines:
    """Two machines: one with an engine that is hurt, one with another engine (the test's usual one)."""

    def __init__(self, cluster: Cluster, own_engine: OwnEngine) -> None:
        self.cluster, self.engine = cluster, own_engine
        cluster.api.create_queue("default", container={"allow_mounts": [str(cluster.folder)]})

    def hurt(self, *arguments: str, lease_s: float = 4, url: str = "", wait: bool = True) -> Part:
        env = {"DOCKER_HOST": url or self.engine.url, "LAUNCH_LEASE_S": f"{lease_s:g}"}
        return self.cluster.worker(name="w1", env=env, arguments=arguments, wait=wait)

    def other(self, *, lease_s: float = 4) -> Part:
        """What is handed on runs there."""
        env = {"LAUNCH_WORK_DIR": str(self.cluster.folder / "elsewhere"), "LAUNCH_LEASE_S": f"{lease_s:g}"}
        return self.cluster.worker(name="w2", env=env | {"DOCKER_HOST": f"unix://{self.cluster.folder}/none.sock"})

    def submit(self, script: str = STAMPS, *, retries: int = 1) -> Run:
        mounts = {"mounts": [f"{self.cluster.folder}:/x"]}
        return submit(
            ["sh", "-c", f"echo up; {script}"], image=IMAGE, retries=retries, container=mounts, api=self.cluster.api
        )

    def stop_jobs(self) -> None:
        (self.cluster.folder / "stop").touch()

    def is_growing(self) -> bool:
        """Whether a job lives: it stamps."""
        stamps = self.cluster.folder / "stamps"
        before = stamps.stat().st_size if stamps.exists() else 0
        time.sleep(0.4)
        return stamps.exists() and stamps.stat().st_size > before


@pytest.fixture
def machines(cluster: Cluster, own_engine: OwnEngine) -> Machines:
    return Machines(cluster, own_engine)


def attempts(machines: Machines) -> set[str]:
    path = machines.cluster.folder / "stamps"
    return set(path.read_text().split()) if path.exists() else set()


def problems(cluster: Cluster) -> dict[str, Any]:
    return {
        "workers": cluster.run("launch-worker", "workers").out,
        "doctor": cluster.run("launch-worker", "doctor").out,
    }


def test_a_run_whose_start_is_unanswered_is_neither_failed_nor_handed_on(machines: Machines) -> None:
    proxy = EngineProxy(machines.engine.socket)
    try:
        worker = machines.hurt(url=proxy.url)
        # The engine starts it, and nobody hears of that; from then on it says nothing at all.
        proxy.rule("swallow", "POST", "/start$")
        run = machines.submit()
        wait_until(lambda: machines.is_growing(), what="the container runs")
        machines.other()
        machines.cluster.beat()
        machines.engine.freeze()
        wait_until(lambda: "does not answer" in run.refresh().reason, what="its reason names the engine")
        time.sleep(5.0)  # longer than a lease
        assert (run.refresh().state, run.record.attempt) == (RunState.RUNNING, 1)
        assert machines.is_growing()
        machines.engine.thaw()
        machines.stop_jobs()
        assert run.wait(30) is RunState.FINISHED
        assert (run.record.attempt, attempts(machines)) == (1, {"1"})
        assert worker.process.poll() is None
    finally:
        proxy.close()


def test_a_worker_waits_for_a_hung_engine_and_a_second_signal_leaves_its_run_to_its_machine(
    machines: Machines,
) -> None:
    cluster, engine = machines.cluster, machines.engine
    worker = machines.hurt("--drain-timeout", "1s")
    run = machines.submit()
    wait_for_output(run, b"up")
    machines.other()
    cluster.beat()
    engine.freeze()
    worker.signal(signal.SIGTERM)
    # The first one: it waits, says for what, and its lease does not run out.
    wait_until(lambda: "worker.waits" in worker.log, timeout_s=60, what="it says that it waits")
    time.sleep(5.0)
    assert worker.process.poll() is None
    assert (run.refresh().state, run.record.attempt, run.record.is_held) == (RunState.RUNNING, 1, False)
    said = problems(cluster)
    assert all(f"cannot see to runs {run.id}: the container engine at {engine.url}" in text for text in said.values())
    # The second one: it leaves, and the run is given to nobody else.
    worker.signal(signal.SIGTERM)
    assert worker.wait(20) == 0, worker.log
    wait_until(lambda: run.refresh().is_held, what="it is held")
    time.sleep(5.0)
    assert machines.is_growing()
    shown = cluster.show(run.id)
    assert (shown["state"], shown["attempt"], shown["held"]) == ("Running", 1, True)
    assert "its container may live on" in shown["reason"]
    assert shown["reason"] in cluster.run("launch-worker", "doctor").out
    # The next worker of the machine looks.
    machines.hurt()
    wait_until(lambda: not run.refresh().is_held, what="the next worker has it")
    engine.thaw()
    machines.stop_jobs()
    assert run.wait(30) is RunState.FINISHED
    assert attempts(machines) == {"1"}
    assert states(run) == ["Pending", "Running", "Finished"]


def test_a_person_confirms_that_what_a_worker_left_has_ended(cluster: Cluster) -> None:
    """As a worker leaves it, without the worker."""
    store = cluster.api.store
    run = submit(["true"], retries=1, api=cluster.api)
    record = claim(store, run.id, owner="gone", lease_s=4.0)
    assert store.hold(record.id, record.token, owner="gone") == "held"
    assert cluster.run("launch-worker", "confirm", run.id, "dead").code == 2
    assert "may live on h" in cluster.run("launch-worker", "retry", run.id).err
    done = cluster.run("launch-worker", "confirm", run.id, "ended", "--json")
    assert json.loads(done.out) == {"id": run.id, "confirm": "ended", "state": "Pending"}
    assert states(run) == ["Pending", "Running", "Crashed", "Pending"]
    again = cluster.run("launch-worker", "confirm", run.id, "ended")
    assert (again.code, "there is nothing to confirm" in again.err) == (1, True)


def test_a_killed_workers_run_is_held_while_its_guard_cannot_end_the_container(machines: Machines) -> None:
    cluster, engine = machines.cluster, machines.engine
    # Its guard asks the engine a quarter of a lease, and a second, before the lease is over.
    worker = machines.hurt(lease_s=16)
    run = machines.submit()
    wait_for_output(run, b"up")
    machines.other(lease_s=16)
    cluster.beat()
    engine.freeze()
    worker.kill()
    wait_until(lambda: run.refresh().is_held, timeout_s=40, what="its guard has it held")
    time.sleep(4.0)
    assert machines.is_growing()
    assert (run.refresh().state, run.record.attempt) == (RunState.RUNNING, 1)
    engine.thaw()
    # The guard ends it now, and only then another machine gets the run.
    wait_until(lambda: run.refresh().attempt == 2, timeout_s=60, what="it is handed on")
    assert not machines.is_growing()
    assert attempts(machines) == {"1"}
