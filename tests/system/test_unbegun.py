"""Runs that a worker has claimed and not begun when it is told to stop: they go back, and use nothing up."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch_worker import Run, submit
from launch_worker.model.states import RunState
from launch_worker.runners.process import tree
from tests.conftest import wait_until
from tests.support.githost import GitHost
from tests.system.conftest import Cluster, states, waits_for


@pytest.fixture
def host(tmp_path: Path) -> Iterator[GitHost]:
    made = GitHost(tmp_path / "git")
    yield made
    made.close()


def went_back(run: Run) -> bool:
    run.refresh()
    return run.state is RunState.PENDING and states(run)[-2:] == ["Killed", "Pending"]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGUSR1])
def test_a_run_that_was_claimed_ahead_of_its_time_goes_back_and_starts_on_time(
    cluster: Cluster, how: signal.Signals, tmp_path: Path
) -> None:
    worker = cluster.worker(arguments=("--prefetch-seconds", "60"))
    due_at = time.time() + 12
    command = ["sh", "-c", f"date +%s.%N > {tmp_path}/at"]
    run = submit(command, at=due_at, retries=0, api=cluster.api)
    wait_until(lambda: run.refresh().state is RunState.RUNNING, what="the run is claimed ahead")
    worker.signal(how)
    assert worker.wait() == 0
    assert went_back(run)
    assert "had not begun" in run.transitions[-1].reason
    cluster.worker(name="w2")
    assert run.wait(30) is RunState.FINISHED
    assert 0 <= float((tmp_path / "at").read_text()) - due_at < 8, "at once, when its worker has started"
    assert (run.record.preemptions, run.record.attempt - run.record.first_attempt) == (0, 0)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGUSR1])
def test_a_run_whose_code_is_being_fetched_goes_back_at_once(
    cluster: Cluster, host: GitHost, how: signal.Signals
) -> None:
    repository = host.repository("hangs/code")
    repository.commit({"a": "b"})
    env = {"GIT_SSL_CAINFO": str(host.certificate), "HOME": str(cluster.folder), "GIT_CONFIG_NOSYSTEM": "1"}
    worker = cluster.worker(env=env)
    other = submit(["sh", "-c", f"{waits_for(cluster.folder / 'end')}; exit 3"], api=cluster.api)
    run = submit(["true"], uri=repository.url, api=cluster.api)
    wait_until(lambda: host.requests, what="its code is asked for")
    worker.signal(how)
    # Before the end of the other job, and of the hanging server's answer, which takes a minute.
    wait_until(lambda: went_back(run), what="the run is back in its queue")
    (cluster.folder / "end").touch()
    assert worker.wait() == 0
    if how is signal.SIGTERM:
        assert other.wait(20) is RunState.FAILED
        assert other.exit_code == 3


def test_a_run_that_is_claimed_by_hand_and_not_run_outlasts_any_number_of_stops(cluster: Cluster) -> None:
    run = submit(["true"], api=cluster.api)
    program = (
        "from launch_worker import Api, LaunchAgent\n"
        "with LaunchAgent(Api(), {'queues': ['default']}) as agent:\n"
        "    while agent.get_job_and_queue() is None: pass\n"
    )
    for stops in range(1, 8):
        assert cluster.run(os.environ.get("PYTHON", "python"), "-c", program).code == 0
        run.refresh()
        assert (run.state, run.record.attempt, run.record.preemptions) == (RunState.PENDING, stops, 0)
    cluster.worker()
    assert run.wait(20) is RunState.FINISHED


def test_a_cancel_of_a_run_that_goes_back_is_not_forgotten(cluster: Cluster, host: GitHost) -> None:
    repository = host.repository("hangs/code")
    repository.commit({"a": "b"})
    env = {"GIT_SSL_CAINFO": str(host.certificate), "HOME": str(cluster.folder), "GIT_CONFIG_NOSYSTEM": "1"}
    worker = cluster.worker(env=env)
    run = submit(["true"], uri=repository.url, api=cluster.api)
    wait_until(lambda: host.requests, what="its code is asked for")
    worker.signal(signal.SIGSTOP)
    run.cancel()
    worker.signal(signal.SIGTERM)
    worker.signal(signal.SIGCONT)
    assert run.wait(20) is RunState.KILLED
    assert worker.wait() == 0
    run.refresh()
    assert run.state is RunState.KILLED


def test_a_run_whose_lease_is_over_before_its_job_begins_goes_back_and_never_runs_beside_another(
    cluster: Cluster, host: GitHost
) -> None:
    """Its worker's machine was suspended meanwhile. What the run held has been given to the other run."""
    repository = host.repository("hangs/code")
    repository.commit({"a": "b"})
    env = {"GIT_SSL_CAINFO": str(host.certificate), "HOME": str(cluster.folder), "GIT_CONFIG_NOSYSTEM": "1"}
    frozen = cluster.worker(name="frozen", env=env)
    run = submit(["true"], uri=repository.url, concurrency_key="k", api=cluster.api)
    wait_until(lambda: host.requests, what="its code is asked for")
    machine = [frozen.pid, *(tree.children(frozen.pid) or [])]
    for pid in machine:
        os.kill(pid, signal.SIGSTOP)
    cluster.worker(name="other")
    other = submit(["sh", "-c", waits_for(cluster.folder / "end")], concurrency_key="k", api=cluster.api)
    assert run.wait(20) is RunState.CRASHED
    wait_until(lambda: other.refresh().state is RunState.RUNNING, what="the other run has its place")
    for pid in reversed(machine):
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: run.refresh().state is not RunState.CRASHED, what="the run is given back")
    assert states(run)[-3:] == ["Crashed", "Killed", "Pending"]
    assert other.refresh().state is RunState.RUNNING
    (cluster.folder / "end").touch()
    assert other.wait(20) is RunState.FINISHED
    assert "Running" not in states(run)[3:5]
