"""A worker whose interpreter stands still is ended, with its jobs, as by SIGKILL."""

from __future__ import annotations

import signal

import pytest

from launch_worker import submit
from launch_worker.model.states import RunState
from tests.conftest import wait_until
from tests.system.conftest import Cluster, job_processes, wait_for_pid

#: SIGUSR2 makes the main thread call what lets no other thread run.
_HOLD = """
import ctypes as _ctypes
import signal as _signal

_signal.signal(_signal.SIGUSR2, lambda *_: _ctypes.PyDLL(None).sleep(600))
"""


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGSTOP], ids=["held", "stopped"])
def test_a_worker_that_hangs_for_longer_than_a_lease_is_ended_with_its_jobs(
    cluster: Cluster, number: signal.Signals
) -> None:
    (cluster.folder / "celeryconfig.py").write_text(_HOLD)
    worker = cluster.worker(name="a")
    run = submit(["sleep", "600"], api=cluster.api)
    wait_for_pid(run)
    worker.signal(number)
    assert worker.wait(30) == -signal.SIGKILL
    assert "guard.worker_hung: it has said nothing for 1" in worker.log
    wait_until(lambda: not job_processes(run.id), what="its job is ended")
    cluster.worker(name="a")
    assert run.wait(20) is RunState.CRASHED
    assert "died" in run.refresh().reason
