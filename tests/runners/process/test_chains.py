"""Processes that fork and exit all the time do not outlive their run; what a job starts to save itself has a grace."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch_worker.clock import boot_time_s
from launch_worker.runners.job import Exited
from launch_worker.runners.process import tree
from launch_worker.runners.process.handle import JobHandle
from tests.conftest import wait_until
from tests.runners.process.test_guard import SOON_S, stop
from tests.support.processes import Jobs, end_of

#: Each process lives some milliseconds, and stamps a file before it forks and exits. For 100 s, longer than any test.
CHAIN = """
import os, sys, time
until = time.monotonic() + 100
hop_s, ignores, stays = float(sys.argv[1]), sys.argv[2] == "ignores", sys.argv[3] == "stays"
if ignores:
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if stays and os.fork():
    time.sleep(600)
while time.monotonic() < until:
    with open("stamp", "w") as stamp:
        stamp.write(str(time.clock_gettime(time.CLOCK_BOOTTIME)))
    time.sleep(hop_s)
    if os.fork():
        os._exit(0)
"""


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    made = Jobs(tmp_path)
    yield made
    made.close()


def chain(jobs: Jobs, hop_s: float, *flags: str) -> JobHandle:
    handle = jobs.start(sys.executable, "-I", "-S", "-c", CHAIN, str(hop_s), *flags, cwd=jobs.folder, grace_s=0.5)
    jobs.wait_for("stamp")
    return handle


def is_over(jobs: Jobs, *, since: float) -> bool:
    """Whether nothing was stamped after it was told that nothing is left."""
    time.sleep(0.2)
    text = (jobs.folder / "stamp").read_text()
    return not text or float(text) <= since


@pytest.mark.parametrize("hop_s", [0.0, 0.001, 0.005])
@pytest.mark.parametrize("ignores", ["ignores", "heeds"])
def test_a_chain_ends_with_its_job(jobs: Jobs, hop_s: float, ignores: str) -> None:
    handle = chain(jobs, hop_s, ignores, "goes")
    assert end_of(handle) == Exited(0, "")
    assert is_over(jobs, since=boot_time_s())


@pytest.mark.parametrize("hop_s", [0.0, 0.001, 0.005])
@pytest.mark.parametrize("grace_s", [0.0, 0.3])
def test_a_chain_ends_with_a_cancel(jobs: Jobs, hop_s: float, grace_s: float) -> None:
    handle = chain(jobs, hop_s, "ignores", "stays")
    exited, took_s = stop(handle, grace_s=grace_s)
    assert exited == Exited(-signal.SIGKILL, "asked")
    assert is_over(jobs, since=boot_time_s())
    assert took_s < grace_s + SOON_S


def test_a_chain_ends_though_its_guard_died(jobs: Jobs) -> None:
    handle = chain(jobs, 0.003, "ignores", "stays")
    jobs.kill_guard()
    exited, _ = stop(handle, grace_s=0.0)
    assert exited == Exited(-signal.SIGKILL, "asked")
    assert is_over(jobs, since=boot_time_s())


def test_a_chain_does_not_hold_up_the_end_of_another_job(jobs: Jobs) -> None:
    handle = chain(jobs, 0.003, "ignores", "stays")
    # Long before the chain ends.
    assert end_of(jobs.shell("exit 3")) == Exited(3, "")
    stop(handle, grace_s=0.0)


SAVES = """
save() { for part in 1 2 3; do sleep 0.15 && echo $part >> saved; done; exit 7; }
trap save TERM
touch ready
while :; do sleep 0.05; done
"""


def test_a_handler_of_sigterm_that_saves_by_other_programs_is_not_disturbed(jobs: Jobs) -> None:
    handle = jobs.shell(SAVES)
    jobs.wait_for("ready")
    exited, _ = stop(handle, grace_s=20.0)
    assert exited == Exited(7, "asked")
    assert (jobs.folder / "saved").read_text() == "1\n2\n3\n"


def test_a_lease_that_is_over_leaves_it_its_grace_too(jobs: Jobs) -> None:
    now = boot_time_s()
    handle = jobs.shell(SAVES, lease=(now + 4.0, now + 60.0))
    jobs.wait_for("ready")
    assert end_of(handle) == Exited(7, "lease")
    assert (jobs.folder / "saved").read_text() == "1\n2\n3\n"


def test_what_it_starts_then_and_leaves_behind_is_ended_when_the_grace_is_over(jobs: Jobs) -> None:
    script = "trap 'setsid sleep 600 & echo $! > left; exit 7' TERM; touch ready; while :; do sleep 0.05; done"
    handle = jobs.shell(script)
    jobs.wait_for("ready")
    exited, took_s = stop(handle, grace_s=1.0)
    assert exited == Exited(7, "asked")
    assert 0.9 < took_s < SOON_S
    wait_until(lambda: tree.look_up(int((jobs.folder / "left").read_text())) is None)
