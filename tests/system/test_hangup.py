"""A worker outlives the terminal that it was started from."""

from __future__ import annotations

import os
import pty
import signal

import pytest

from launch_worker import submit
from launch_worker.model.states import RunState
from tests.conftest import wait_until
from tests.system.conftest import Cluster, wait_for_pid


@pytest.mark.parametrize("whom", ["the worker", "its process group"])
def test_a_hangup_ends_neither_the_worker_nor_its_jobs(cluster: Cluster, whom: str) -> None:
    worker = cluster.worker()
    run = submit(["sleep", "600"], api=cluster.api)
    pid = wait_for_pid(run)
    (os.kill if whom == "the worker" else os.killpg)(worker.pid, signal.SIGHUP)
    # It has gone through its loop since, and executes runs.
    assert submit(["true"], api=cluster.api).wait(20) is RunState.FINISHED
    assert run.refresh().state is RunState.RUNNING
    assert run.refresh().pid == pid
    assert worker.log.count(" ready.") == 1
    run.cancel(grace_s=0)
    assert run.wait(20) is RunState.KILLED
    worker.process.terminate()
    assert worker.wait(20) == 0


def test_a_closed_terminal_ends_neither_the_worker_nor_its_jobs(cluster: Cluster) -> None:
    """Of a worker that was put into the background of a shell: it is a process of that terminal's session."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(cluster.folder)
        words = ["python", "-m", "celery", "-A", "launch_worker", "worker", "-Q", "default", "-c", "2"]
        os.execvpe("python", words, cluster.env)
    wait_until(cluster.api.store.workers, what="the worker is listed")
    run = submit(["sleep", "600"], api=cluster.api)
    wait_for_pid(run)
    os.close(terminal)
    os.kill(pid, signal.SIGHUP)
    assert submit(["true"], api=cluster.api).wait(20) is RunState.FINISHED
    assert run.refresh().state is RunState.RUNNING
    run.cancel(grace_s=0)
    assert run.wait(20) is RunState.KILLED
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: os.waitpid(pid, os.WNOHANG)[0] == pid, what="the worker has ended")
