"""Read these first: what a run is, in ten tests. Each has a real Redis, real workers and real jobs."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from launch_worker import submit, submit_many
from tests.system.conftest import Cluster, job_processes, states, wait_for_pid

pytestmark = pytest.mark.main_path

#: Seconds until a test gives up waiting for an end. They end within tenths.
PATIENCE_S = 20


def test_submit_a_run_goes_from_pending_to_running_to_finished(cluster: Cluster) -> None:
    cluster.worker()
    run = submit(["echo", "hello"], api=cluster.api)
    assert run.wait(PATIENCE_S) == "Finished"
    assert states(run) == ["Pending", "Running", "Finished"]
    assert (run.exit_code, run.output().text) == (0, "hello\n")


def test_fail_an_exit_code_other_than_0_makes_the_run_failed(cluster: Cluster) -> None:
    cluster.worker()
    run = submit(["sh", "-c", "exit 3"], api=cluster.api)
    assert run.wait(PATIENCE_S) == "Failed"
    assert (run.exit_code, run.record.reason) == (3, "exit code 3")


def test_retry_a_failed_attempt_is_followed_by_another_one_of_the_same_run(cluster: Cluster) -> None:
    cluster.worker()
    run = submit(["sh", "-c", "[ $LAUNCH_ATTEMPT = 2 ]"], retries=1, retry_delay=0, api=cluster.api)
    assert run.wait(PATIENCE_S) == "Finished"
    assert states(run) == ["Pending", "Running", "Failed", "Pending", "Running", "Finished"]


def test_cancel_the_job_is_ended_and_the_run_is_killed(cluster: Cluster) -> None:
    cluster.worker()
    run = submit(["sleep", "600"], api=cluster.api)
    wait_for_pid(run)
    run.cancel(reason="enough")
    assert run.wait(PATIENCE_S) == "Killed"
    assert run.record.reason == "enough"
    assert not job_processes(run.id)


def test_time_limit_a_job_that_takes_too_long_is_ended_and_the_run_is_failed(cluster: Cluster) -> None:
    cluster.worker()
    run = submit(["sleep", "600"], timeout=0.3, api=cluster.api)
    assert run.wait(PATIENCE_S) == "Failed"
    assert run.record.reason == "time limit of 0.3 s reached"


def test_death_a_job_dies_with_its_worker_and_the_run_is_crashed(cluster: Cluster) -> None:
    worker = cluster.worker()
    run = submit(["sleep", "600"], api=cluster.api)
    wait_for_pid(run)
    worker.kill()  # SIGKILL: the worker can do nothing any more, but its guard ends the job
    cluster.worker()  # the next worker of the machine finds what the dead one left, and reports it
    assert run.wait(PATIENCE_S) == "Crashed"
    assert not job_processes(run.id)


def test_adoption_a_job_goes_on_under_the_next_worker(cluster: Cluster, tmp_path: Path) -> None:
    # Until the next worker is there the guard keeps the job; not longer than the lease.
    worker = cluster.worker(env={"LAUNCH_LEASE_S": "30"})
    run = submit(["sh", "-c", f"until [ -e {tmp_path}/enough ]; do sleep 0.05; done"], api=cluster.api)
    pid = wait_for_pid(run)
    worker.signal(signal.SIGUSR1)  # the worker leaves, and leaves its jobs to the next one: an upgrade
    assert worker.wait() == 0
    cluster.worker()
    (tmp_path / "enough").touch()
    assert run.wait(PATIENCE_S) == "Finished"
    assert (run.record.attempt, run.record.pid) == (1, pid)


def test_array_one_submission_makes_a_run_for_each_index(cluster: Cluster) -> None:
    cluster.worker()
    runs = submit_many([{"command": ["sh", "-c", "echo $LAUNCH_ARRAY_INDEX"], "array": "1-3"}], api=cluster.api)
    assert [run.wait(PATIENCE_S) for run in runs] == ["Finished"] * 3
    assert [run.output().text for run in runs] == ["1\n", "2\n", "3\n"]


def test_after_a_run_waits_for_the_end_of_another(cluster: Cluster) -> None:
    cluster.worker()
    first = submit(["sh", "-c", "sleep 0.2; echo data > result"], cwd=cluster.folder, api=cluster.api)
    second = submit(["cat", "result"], cwd=cluster.folder, after=[first.id], api=cluster.api)
    never = submit(["echo", "no"], after=[f"{first.id}:failed"], api=cluster.api)
    assert second.wait(PATIENCE_S) == "Finished"
    assert second.output().text == "data\n"
    assert never.wait(PATIENCE_S) == "Killed"  # the first run did not fail, so it can never start


def test_queue_limit_no_more_runs_of_a_queue_run_at_once(cluster: Cluster) -> None:
    cluster.api.create_queue("gpu", limit=1)
    cluster.worker("gpu", slots=4)
    # A second job at the same time would not get the folder, and fail.
    command = ["sh", "-c", "mkdir busy && sleep 0.1 && rmdir busy"]
    runs = [submit(command, queue="gpu", cwd=cluster.folder, api=cluster.api) for _ in range(4)]
    assert [run.wait(PATIENCE_S) for run in runs] == ["Finished"] * 4
