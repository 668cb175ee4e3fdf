"""Celery's loop meets with what it cannot survive: jobs are dealt with as after any death of a worker."""

from __future__ import annotations

import signal

import psutil

from launch_worker import submit
from launch_worker.model.states import RunState
from tests.conftest import wait_until
from tests.system.conftest import Cluster, job_processes, states, wait_for_pid

#: SIGUSR2 raises in the main thread, which is the loop's.
_BREAK = """
import signal as _signal

def _raise(*_):
    raise RuntimeError("something in the loop")

_signal.signal(_signal.SIGUSR2, _raise)
"""


def test_an_error_that_ends_celerys_loop_counts_as_the_workers_death(cluster: Cluster) -> None:
    (cluster.folder / "celeryconfig.py").write_text(_BREAK)
    worker = cluster.worker(name="a", arguments=["-B"])
    once = submit(["sleep", "600"], api=cluster.api)
    again = submit(["sleep", "600"], retries=1, api=cluster.api)
    for run in (once, again):
        wait_for_pid(run)
    (beat,) = (child for child in psutil.Process(worker.pid).children() if "worker" in child.cmdline())
    worker.signal(signal.SIGUSR2)
    assert worker.wait(10) == 1
    assert "worker.broken" in worker.log
    assert "something in the loop" in worker.log
    # It may have come back to this process, which need not reap it.
    wait_until(
        lambda: not beat.is_running() or beat.status() == psutil.STATUS_ZOMBIE, what="its embedded beat ends too"
    )
    wait_until(lambda: not job_processes(once.id), what="its guard ends the jobs")
    cluster.worker(name="b")
    assert once.wait(20) is RunState.CRASHED
    wait_until(lambda: states(again).count("Running") == 2, what="the next attempt runs")
    assert "Killed" not in states(once) + states(again)
    again.cancel(grace_s=0)
    assert again.wait(20) is RunState.KILLED
