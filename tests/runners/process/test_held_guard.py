"""A guard that is held, by a start whose files do not answer or by a signal: another takes its jobs over."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch_worker.runners.job import Exited
from launch_worker.runners.process import guard_link, tree
from launch_worker.runners.process.handle import JobHandle
from tests.conftest import wait_until
from tests.support.processes import Jobs, end_of, guard_of


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    monkeypatch.setattr(guard_link, "HELD_S", 0.3)
    made = Jobs(tmp_path)
    yield made
    made.close()


@pytest.fixture
def held_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, int]]:
    """A program that the kernel opens for nobody until the lease on it is given up, and the descriptor of that."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # the kernel asks for the lease by it
    program = tmp_path / "program"
    shutil.copy("/bin/true", program)
    program.chmod(0o755)
    fd = os.open(program, os.O_RDONLY | os.O_CLOEXEC)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    yield program, fd
    os.close(fd)
    signal.signal(signal.SIGIO, before)


def beat_until_replaced(jobs: Jobs, guard: int, *neighbours: JobHandle) -> None:
    """Renew leases, as heartbeats do, until there is another guard."""

    def replaced() -> bool:
        jobs.runner.renew({handle.key: None for handle in neighbours})
        return guard_of(jobs.runner) != guard

    wait_until(replaced, what="another guard is there")


def begin_to_start(jobs: Jobs, program: Path, neighbour: JobHandle) -> tuple[threading.Thread, list[JobHandle]]:
    """Start a program that hangs, until another guard is there; the starting thread, and where its job will be."""
    guard = guard_of(jobs.runner)
    started: list[JobHandle] = []
    starting = threading.Thread(target=lambda: started.append(jobs.start(str(program))))
    starting.start()
    beat_until_replaced(jobs, guard, neighbour)
    return starting, started


def test_a_start_that_hangs_holds_up_no_other_job(jobs: Jobs, held_program: tuple[Path, int]) -> None:
    program, lease = held_program
    neighbour = jobs.start("sleep", "60")
    starting, started = begin_to_start(jobs, program, neighbour)
    # Neither its neighbour nor what comes later waits for it.
    neighbour.stop(grace_s=5)
    assert end_of(neighbour) == Exited(-signal.SIGTERM, "asked")
    assert end_of(jobs.shell("exit 3")) == Exited(3, "")
    # It is a job as others, whose program begins when its file answers.
    starting.join(20)
    [held] = started
    assert held.events.empty()
    fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    assert end_of(held) == Exited(0, "")


def test_a_start_that_hangs_can_be_stopped(jobs: Jobs, held_program: tuple[Path, int]) -> None:
    program, _ = held_program
    neighbour = jobs.start("sleep", "60")
    starting, started = begin_to_start(jobs, program, neighbour)
    starting.join(20)
    [held] = started
    held.stop(grace_s=0)
    assert end_of(held).stopped_by == "asked"
    assert tree.is_alive(neighbour.main or tree.ProcessId(0, 0))
    neighbour.stop(grace_s=0)
    assert end_of(neighbour) == Exited(-signal.SIGKILL, "asked")


def test_a_guard_that_somebody_has_stopped_is_replaced(jobs: Jobs) -> None:
    neighbour = jobs.start("sleep", "60")
    guard = guard_of(jobs.runner)
    os.kill(guard, signal.SIGSTOP)
    beat_until_replaced(jobs, guard, neighbour)
    assert tree.is_alive(neighbour.main or tree.ProcessId(0, 0))
    neighbour.stop(grace_s=0)
    assert end_of(neighbour) == Exited(-signal.SIGKILL, "asked")


def test_a_guard_that_reads_is_kept(jobs: Jobs) -> None:
    neighbour = jobs.start("sleep", "60")
    guard = guard_of(jobs.runner)
    for _ in range(300):
        jobs.runner.renew({neighbour.key: None})
    assert guard_of(jobs.runner) == guard
    neighbour.stop(grace_s=0)
    end_of(neighbour)


def test_a_heartbeat_after_the_jobs_were_left_finds_no_fault(jobs: Jobs) -> None:
    job = jobs.start("sleep", "60")
    jobs.runner.detach()
    jobs.runner.renew({job.key: None})
    os.kill(job.pid, signal.SIGKILL)
