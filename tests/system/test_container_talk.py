"""What jobs in containers tell: the same words as processes, fetched from them by the worker."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from docker.errors import APIError

from launch_worker.api.client import Run, submit
from launch_worker.model.states import RunState
from tests.conftest import wait_until
from tests.system.conftest import Cluster, wait_for_output

SLOW = {"LAUNCH_LEASE_S": "30"}
TELL = 'tell() { echo "$1" >> "$LAUNCH_RUN_DIR/to_worker"; }; '


@pytest.fixture
def containers(engine: Any, busybox_image: str, cluster: Cluster) -> Iterator[Containers]:
    made = Containers(engine, busybox_image, cluster)
    yield made
    for container in made.left():
        # Its worker may be removing it.
        with contextlib.suppress(APIError):
            engine.api.remove_container(container, force=True, v=True)


class Containers:
    """A cluster with an engine beside it."""

    def __init__(self, engine: Any, image: str, cluster: Cluster) -> None:
        self.engine, self.image, self.cluster = engine, image, cluster

    def submit(self, script: str, **options: Any) -> Run:
        return submit(["sh", "-c", TELL + script], image=self.image, api=self.cluster.api, **options)

    def left(self, **filters: str) -> list[str]:
        """Every container of this test's system, whatever its state."""
        system = self.cluster.api.store.system()
        listed = self.engine.api.containers(all=True, filters={"label": f"launch.system={system}", **filters})
        return [entry["Id"] for entry in listed]


def summary(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run.refresh().summary or "{}")
    return found


@pytest.mark.parametrize("options", [{}, {"container": {"user": "nobody", "read_only": True}}])
def test_summary_and_metrics_arrive_while_it_runs(containers: Containers, options: dict[str, Any]) -> None:
    """Also of one that is not root in it, and may write nowhere else."""
    containers.cluster.worker()
    run = containers.submit(
        """tell '{"heeds_stop": true}'; tell '{"log": {"loss": 0.5}, "message": "half"}'; echo up
        until [ -e "$LAUNCH_RUN_DIR/go" ]; do sleep 0.1; [ -e "$LAUNCH_RUN_DIR/stop" ] && exit 0; done""",
        **options,
    )
    wait_until(lambda: summary(run) == {"loss": 0.5}, what="the row has arrived")
    assert run.refresh().reason == "half"
    run.cancel(reason="enough")
    assert run.wait(30) is RunState.KILLED
    assert len(containers.cluster.api.store.metrics(run.id)) == 1
    assert containers.left() == []


def test_what_it_told_just_before_its_end_is_heard(containers: Containers) -> None:
    containers.cluster.worker()
    run = containers.submit("""tell '{"summary": {"x": 1}}'; tell '{"finish": 3}'; exit 0""")
    assert run.wait(30) is RunState.FAILED
    wait_until(lambda: run.refresh().late_exit == "0", what="what became of its process is noted")
    assert (run.record.exit_code, summary(run)) == (3, {"x": 1})


def test_a_finished_container_goes_on_and_how_it_ended_is_noted(containers: Containers) -> None:
    containers.cluster.worker(slots=1)
    run = containers.submit("""trap 'exit 4' USR1; tell '{"finish": 0}'; while :; do sleep 0.1; done""")
    assert run.wait(30) is RunState.FINISHED
    (container,) = containers.left(status="running")
    behind = submit(["true"], api=containers.cluster.api)
    time.sleep(1.0)
    assert behind.refresh().state is RunState.PENDING
    containers.engine.api.kill(container, "SIGUSR1")
    assert behind.wait(30) is RunState.FINISHED
    record = run.refresh()
    assert (record.state, record.exit_code, record.late_exit) == (RunState.FINISHED, 0, "4")
    assert containers.left() == []


def test_a_finished_container_of_a_killed_worker_is_seen_to_its_end_by_the_next(containers: Containers) -> None:
    cluster = containers.cluster
    worker = cluster.worker(env=SLOW)
    run = containers.submit("""tell '{"summary": {"x": 1}, "finish": 0}'; sleep 8; exit 4""")
    assert run.wait(30) is RunState.FINISHED
    worker.kill()
    cluster.worker(env=SLOW)
    wait_until(lambda: run.refresh().late_exit == "4", timeout_s=40, what="how it ended is noted")
    assert run.refresh().state is RunState.FINISHED
    assert containers.left() == []


def test_what_a_container_told_while_no_worker_was_there_is_heard_by_the_next_and_kept_once(
    containers: Containers,
) -> None:
    cluster = containers.cluster
    worker = cluster.worker(env=SLOW)
    run = containers.submit(
        """i=0; while [ $i -lt 40 ]; do i=$((i+1)); tell "{\\"log\\": {\\"x\\": $i}}"; sleep 0.2; done
        tell '{"finish": 0}'; exit 1"""
    )
    wait_until(lambda: summary(run), what="the first rows are there")
    worker.kill()
    time.sleep(2.0)
    cluster.worker(env=SLOW)
    assert run.wait(60) is RunState.FINISHED
    assert [row["x"] for row in cluster.api.store.metrics(run.id)] == list(range(1, 41))


def test_a_container_sees_that_it_shall_stop_and_ends_by_itself(containers: Containers) -> None:
    containers.cluster.worker()
    run = containers.submit(
        """tell '{"heeds_stop": true}'; echo up
        until [ -e "$LAUNCH_RUN_DIR/stop" ]; do sleep 0.1; done; head -n 1 "$LAUNCH_RUN_DIR/stop"; exit 0""",
        grace=60,
    )
    wait_for_output(run, b"up")
    workers = containers.cluster.folder / "work" / "workers"
    heard = lambda: any("true" in path.read_text() for path in workers.rglob("words.json"))  # noqa: E731
    wait_until(heard, what="its worker knows that it heeds")
    run.cancel(reason="enough")
    assert run.wait(20) is RunState.KILLED
    record = run.refresh()
    assert (run.logs(), record.exit_code, record.reason) == (b"up\nenough\n", 0, "enough")


def test_a_preempting_container_goes_back_to_its_queue(containers: Containers) -> None:
    """W17."""
    containers.cluster.worker()
    run = containers.submit("""[ $LAUNCH_ATTEMPT = 2 ] && exit 0; tell '{"preempting": true}'; exit 1""")
    assert run.wait(40) is RunState.FINISHED
    assert (run.record.attempt, run.record.preemptions) == (2, 1)


def test_heartbeats_keep_a_silent_container_from_its_stall_limit(containers: Containers) -> None:
    containers.cluster.worker()
    run = containers.submit(
        """i=0; while [ $i -lt 30 ]; do i=$((i+1)); tell '{"heartbeat": true}'; sleep 0.3; done""",
        stall_timeout=5,
    )
    assert run.wait(40) is RunState.FINISHED


def test_garbage_links_and_many_lines_of_a_container_are_bounded(containers: Containers) -> None:
    containers.cluster.worker()
    flood = containers.submit(
        """yes '{"log": {"x": 1}}' | head -n 1000000 >> "$LAUNCH_RUN_DIR/to_worker"
        yes garbage | head -n 1000000 >> "$LAUNCH_RUN_DIR/to_worker"
        tell; tell '{"summary": {"end": true}}'"""
    )
    link = containers.submit("""ln -s /etc/passwd "$LAUNCH_RUN_DIR/to_worker"; sleep 2.5""")
    sparse = containers.submit("""busybox truncate -s 1T "$LAUNCH_RUN_DIR/to_worker"; sleep 2.5""")
    assert [run.wait(60) for run in (flood, link, sparse)] == [RunState.FINISHED] * 3
    assert (summary(flood), summary(link), summary(sparse)) == ({"x": 1, "end": True}, {}, {})
    assert len(containers.cluster.api.store.metrics(flood.id)) == 1000
