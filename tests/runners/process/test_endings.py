"""A job is asked to end by its own signal, and its main process alone if it says so, whoever asks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launch_worker.clock import boot_time_s
from launch_worker.runners.job import Ending, Exited
from launch_worker.runners.process import tree
from launch_worker.runners.process.handle import JobHandle
from tests.conftest import wait_until
from tests.support.processes import Jobs, end_of, pid_in

#: A main process that ends by SIGHUP once its child has; each appends the signals that it gets to a file.
SCRIPT = """
bash -c 'echo $$ > $HERE/pid; for s in HUP TERM USR1; do trap "echo child $s >> $HERE/got" $s; done
touch $HERE/ready; until [ -e $HERE/go ]; do sleep 0.02; done' &
for s in TERM USR1; do trap "echo main $s >> $HERE/got" $s; done
trap 'echo main HUP >> $HERE/got; exit 4' HUP
while :; do sleep 0.02; done
"""
HUP_MAIN = Ending(signal.SIGHUP, stops_main=True)
HUP_ALL = Ending(signal.SIGHUP, stops_main=False)


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    made = Jobs(tmp_path)
    yield made
    (tmp_path / "go").touch()
    made.close()


def got(jobs: Jobs) -> list[str]:
    path = jobs.folder / "got"
    return path.read_text().splitlines() if path.exists() else []


def started(jobs: Jobs, ending: Ending, **options: object) -> JobHandle:
    handle = jobs.shell(SCRIPT, ending=ending, **options)
    jobs.wait_for("ready")
    return handle


def test_all_processes_get_the_jobs_own_signal(jobs: Jobs) -> None:
    handle = started(jobs, HUP_ALL)
    handle.stop(grace_s=30.0)
    wait_until(lambda: sorted(got(jobs)) == ["child HUP", "main HUP"])
    (jobs.folder / "go").touch()
    assert end_of(handle) == Exited(4, "asked")


def test_only_the_main_process_is_asked_while_it_lives_and_the_rest_after_it(jobs: Jobs) -> None:
    handle = started(jobs, HUP_MAIN, grace_s=30.0)
    child = pid_in(jobs.folder / "pid")
    os.kill(handle.pid, signal.SIGSTOP)
    handle.stop(grace_s=30.0)
    # It is woken by the guard, and ends; what it leaves has the two seconds of any job that ends by itself.
    assert end_of(handle) == Exited(4, "asked")
    assert got(jobs) == ["main HUP", "child HUP"]
    assert not tree.is_alive(child)


def test_what_does_not_end_is_killed_with_all_its_processes(jobs: Jobs) -> None:
    handle = started(jobs, Ending(signal.SIGTERM, stops_main=True))
    handle.stop(grace_s=0.5)
    assert end_of(handle) == Exited(-signal.SIGKILL, "asked")
    assert got(jobs) == ["main TERM"]


def _let_lease_end(jobs: Jobs, handle: JobHandle) -> None:
    now = boot_time_s()
    jobs.runner.renew({handle.key: (now, now + 30.0)})


def _replace_guard(jobs: Jobs, handle: JobHandle) -> None:
    jobs.kill_guard()
    handle.stop(grace_s=30.0)


@pytest.mark.parametrize("end", [_let_lease_end, _replace_guard])
def test_it_holds_whoever_ends_the_job(jobs: Jobs, end: Callable[[Jobs, JobHandle], None]) -> None:
    handle = started(jobs, HUP_MAIN)
    end(jobs, handle)
    assert end_of(handle).status == 4
    assert got(jobs)[0] == "main HUP"


def test_it_holds_when_the_worker_dies(jobs: Jobs, tmp_path: Path) -> None:
    """A worker of its own, which is killed: only its guard is left."""
    program = """
import os, queue, sys, time
from pathlib import Path
from launch_worker.runners.job import Ending
from launch_worker.runners.process.runner import ProcessRunner
folder = Path(sys.argv[1])
env = {"PATH": os.environ["PATH"], "LAUNCH_RUN_ID": "of-a-dead-worker", "LAUNCH_TOKEN": "1", "HERE": str(folder)}
ProcessRunner().open().start(["bash", "-c", sys.argv[2]], key="k", env=env, cwd=folder, log_path=folder / "log",
    grace_s=10.0, lease=None, events=queue.SimpleQueue(), timeout_s=20.0, ending=Ending(1, True))
time.sleep(600)
"""
    worker = subprocess.Popen([sys.executable, "-c", program, str(tmp_path), SCRIPT])
    try:
        jobs.wait_for("ready")
        child = pid_in(tmp_path / "pid")
    finally:
        worker.kill()
        worker.wait()
    wait_until(lambda: got(jobs) == ["main HUP", "child HUP"])
    wait_until(lambda: not tree.is_alive(child))


@pytest.mark.parametrize("to_all", [False, True])
def test_a_signal_is_sent_to_a_job_that_goes_on(jobs: Jobs, to_all: bool) -> None:
    handle = started(jobs, HUP_ALL)
    handle.signal("SIGUSR1", to_all=to_all)
    expected = ["child USR1", "main USR1"] if to_all else ["main USR1"]
    wait_until(lambda: sorted(got(jobs)) == expected)
    handle.stop(grace_s=30.0)
    expected = sorted([*expected, "main HUP", "child HUP"])
    wait_until(lambda: sorted(got(jobs)) == expected)
    (jobs.folder / "go").touch()
    assert end_of(handle) == Exited(4, "asked")
    handle.signal("SIGUSR1", to_all=to_all)  # nobody is there
    assert sorted(got(jobs)) == expected
