"""An upgrade in place: a guard of an older release, which runs on, meets a worker of this one."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launch_worker.clock import boot_time_s
from launch_worker.ids import new_run_id
from launch_worker.model.usage import Used
from launch_worker.runners.job import Ending, Exited
from launch_worker.runners.process import tree
from launch_worker.runners.process.handle import JobHandle
from launch_worker.runners.process.takeover import take_over
from tests.conftest import wait_until
from tests.support import old_guard
from tests.support.processes import end_of

ROOT = str(Path(tree.__file__).parents[3])
COUNTS = "trap 'echo bye; exit 3' TERM; echo begun; while [ ! -e go ]; do sleep 0.01; done; echo done; exit 9"


class Left:
    """A job that an older worker left with its guard, and the runner of the worker that takes it over."""

    def __init__(self, folder: Path, script: str) -> None:
        self.folder = folder
        self.attempt = folder / "runs" / "r.1.7"
        self.attempt.mkdir(parents=True)
        (folder / "lock").touch()
        lock_fd = os.open(folder / "lock", os.O_RDWR)
        self.env = {"PATH": os.environ["PATH"], "LAUNCH_RUN_ID": new_run_id(), "LAUNCH_TOKEN": "7"}
        self.guard = subprocess.Popen(
            [sys.executable, "-I", old_guard.__file__, str(folder), str(lock_fd), str(self.attempt), script],
            env=self.env,
            pass_fds=[lock_fd],
            stdout=subprocess.PIPE,
        )
        os.close(lock_fd)
        assert self.guard.stdout is not None
        assert self.guard.stdout.readline() == b"left\n"
        self.guard.stdout.close()
        self.take_over()

    def take_over(self) -> None:
        self.runner, (job,), self.lock_fd = wait_until(lambda: take_over(self.folder, hung_after_s=60.0))
        assert (job.key, job.folder, job.exited, job.pipe) == ("r.1", self.attempt, None, None)
        self.job: JobHandle = self.runner.claim(job, env=self.env, grace_s=5.0, events=queue.SimpleQueue())
        self.runner.open()
        now = boot_time_s()
        self.runner.renew({"r.1": (now + 60.0, now + 61.0)})

    def start(self, script: str, **options: Any) -> JobHandle:
        """Start a job of the new worker, which prints into the file `new`."""
        return self.runner.start(
            ["sh", "-c", script],
            key="r.2",
            env=self.env | {"LAUNCH_RUN_ID": new_run_id()},
            cwd=self.folder,
            log_path=self.folder / "new",
            grace_s=5.0,
            lease=None,
            events=queue.SimpleQueue(),
            timeout_s=20.0,
            **options,
        )

    def output(self) -> str:
        return (self.attempt / "output").read_text()

    def close(self) -> None:
        """The old guard has understood all that it was told."""
        self.runner.close()
        os.close(self.lock_fd)
        assert self.guard.wait(20) == 0


@pytest.fixture
def left(tmp_path: Path) -> Iterator[Left]:
    made = Left(tmp_path, COUNTS)
    yield made
    made.close()


def test_its_job_goes_on_and_ends_with_its_exit_code(left: Left) -> None:
    (left.folder / "go").touch()
    assert end_of(left.job) == Exited(9, "")
    assert left.output() == "begun\ndone\n"
    assert left.job.used == Used(), "such a guard does not tell it"
    assert left.runner.is_idle


def test_its_job_can_be_stopped(left: Left) -> None:
    wait_until(lambda: left.output() == "begun\n")
    left.job.stop(grace_s=5.0)
    assert end_of(left.job) == Exited(3, "asked")
    assert left.output() == "begun\nbye\n"


def test_it_starts_the_jobs_of_the_new_worker_too(left: Left) -> None:
    job = left.start("echo new; exit 4", brief_s=1.0)
    assert end_of(job) == Exited(4, "")
    assert (left.folder / "new").read_text() == "new\n"
    (left.folder / "go").touch()
    assert end_of(left.job).status == 9


def test_a_job_with_an_ending_of_its_own_gets_sigterm_from_it(left: Left) -> None:
    """It knows no other; a signal ahead of the end comes from the worker itself."""
    job = left.start(
        "trap 'echo led' USR1; trap 'exit 5' TERM; echo up; while :; do sleep 0.02; done",
        ending=Ending(signal.SIGINT, stops_main=True),
    )
    wait_until(lambda: (left.folder / "new").read_text() == "up\n")
    job.signal("SIGUSR1", to_all=True)
    # The shell may tell too that its `sleep` was ended by it.
    wait_until(lambda: "led\n" in (left.folder / "new").read_text())
    job.stop(grace_s=5.0)
    assert end_of(job) == Exited(5, "asked")
    (left.folder / "go").touch()
    assert end_of(left.job).status == 9


def test_it_watches_the_containers_of_the_new_worker(left: Left) -> None:
    expired: queue.SimpleQueue[float] = queue.SimpleQueue()
    left.runner.watch("r.3", "a container", lease=(1.0, 2.0), on_expired=expired.put, more={"run": "r"})
    assert expired.get(timeout=20.0) == 2.0
    left.runner.unwatch("r.3")
    (left.folder / "go").touch()
    end_of(left.job)


def test_it_can_be_handed_on(left: Left) -> None:
    left.runner.detach()
    os.close(left.lock_fd)
    left.take_over()
    (left.folder / "go").touch()
    assert end_of(left.job) == Exited(9, "")


def test_the_program_by_which_it_ends_a_container_is_where_it_was() -> None:
    """The guard starts it from the folder of the package, which holds this release by now."""
    program = "import sys; sys.path.insert(0, sys.argv.pop(1)); from launch_worker.runners.end_container import main"
    subprocess.run([sys.executable, "-I", "-c", program, ROOT], check=True, timeout=30)
