"""What a job's tree has used: the guard's sums over what it reaps, and one look at the process table for all trees."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch_worker.runners.process import reaped, tree, tree_usage
from launch_worker.runners.process.exits import Exit, ExitFile, keep_exit, read_exits
from launch_worker.runners.process.handle import JobHandle
from launch_worker.runners.process.reaped import Reaped
from launch_worker.runners.process.tree_usage import TreeUsage
from tests.conftest import wait_until
from tests.support.processes import Jobs, end_of, guard_of

MIB = 1 << 20
#: Burns CPU for argv[1] seconds of its own.
BURN = "import sys, time\nwhile time.process_time() < float(sys.argv[1]): pass\n"
WAIT = "while [ ! -e go ]; do sleep 0.02; done"


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    made = Jobs(tmp_path)
    (tmp_path / "burn.py").write_text(BURN)
    yield made
    made.close()


def burn(seconds: float, *, behind: str = "") -> str:
    return f"{sys.executable} -S burn.py {seconds} {behind}"


def used(handle: JobHandle) -> float:
    assert end_of(handle).status == 0
    assert handle.used.cpu_s is not None
    return handle.used.cpu_s


@pytest.mark.parametrize(
    "script",
    [
        burn(0.3),
        f"{burn(0.1)}; {burn(0.2)}",
        f"{burn(0.1)} & {burn(0.2)}; wait",
        # A daemon in a session of its own, whose parents have ended before it.
        f"(setsid sh -c '{burn(0.2)}; touch burnt' &) ; {burn(0.1)}; while [ ! -e burnt ]; do sleep 0.02; done",
    ],
    ids=["by itself", "one after the other", "side by side", "a daemon"],
)
def test_the_cpu_of_all_its_processes_counts(jobs: Jobs, script: str) -> None:
    assert 0.3 <= used(jobs.shell(script)) < 1.5


def test_what_it_leaves_behind_counts_until_that_has_ended(jobs: Jobs) -> None:
    handle = jobs.shell(f"(trap '' TERM; {burn(0.5)}; touch done) & disown; {burn(0.1)}")
    assert used(handle) >= 0.15, "its aftermath, too"


def test_orphans_of_brief_processes_count(jobs: Jobs) -> None:
    await_all = "while [ $(ls | grep -c burnt) != 5 ]; do sleep 0.02; done"
    script = f"for n in 1 2 3 4 5; do (({burn(0.05)}; touch burnt$n) &) ; done; {await_all}"
    assert used(jobs.shell(script)) >= 0.25


def test_jobs_side_by_side_are_told_apart(jobs: Jobs) -> None:
    busy, idle = jobs.shell(burn(0.5)), jobs.shell("sleep 0.1")
    assert used(idle) < 0.2
    assert used(busy) >= 0.5


def test_the_peak_of_the_largest_process_is_known_and_no_more_than_that(jobs: Jobs) -> None:
    handle = jobs.start(sys.executable, "-S", "-c", "x = b'x' * (150 << 20)")
    end_of(handle)
    assert handle.used.peak_memory is not None
    assert 150 * MIB < handle.used.peak_memory < 200 * MIB
    small = jobs.start("true")
    end_of(small)
    assert small.used.peak_memory is None, "less than the guard has itself"
    assert (small.used.cpu_s or 0) < 0.1


def test_a_machine_whose_kernel_does_not_tell_leaves_it_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    found = reaped.of_unreaped(pid)
    assert found is not None
    assert found == reaped.of_rusage(os.wait4(pid, 0)[2])
    assert reaped.of_unreaped(pid) is None, "it is no child any more"
    monkeypatch.setattr(reaped, "_machine", lambda: "vax")
    assert reaped.of_unreaped(pid) is None


def test_a_job_whose_guard_died_is_told_by_who_reaps_it(jobs: Jobs) -> None:
    handle = jobs.shell(f"{WAIT}; {burn(0.3)}")
    jobs.kill_guard()
    (jobs.folder / "go").touch()
    assert used(handle) >= 0.3


# -- the file of the exits ---------------------------------------------------------------------------------------------


def test_the_exits_have_what_was_used(tmp_path: Path) -> None:
    file = ExitFile(str(tmp_path))
    ends = {"a.1.7": Exit(3, "", 5.0, Reaped(0.25, 7 * MIB)), "b.1.8": Exit(-9, "asked", 6.0)}
    for name, exited in ends.items():
        (tmp_path / "runs" / name).mkdir(parents=True)
        assert file.keep(name, exited)
    assert keep_exit(str(tmp_path), "c.1.9", Exit(0, "", 7.0, Reaped(1.5, 0)))
    assert read_exits(str(tmp_path)) == ends | {"c.1.9": Exit(0, "", 7.0, Reaped(1.5, 0))}
    # An earlier release reads a line by this pattern alone, and passes over all others.
    lines = (tmp_path / "exits").read_text().splitlines()
    plain = [line.split() for line in lines if line.split()[1].lstrip("-").isdigit()]
    assert [(words[0], words[1]) for words in plain] == [("a.1.7", "3"), ("b.1.8", "-9"), ("c.1.9", "0")]
    file._shorten()
    assert read_exits(str(tmp_path)) == ends, "what was reported is left out, the rest is whole"
    file.close()


# -- looks -------------------------------------------------------------------------------------------------------------


def cookie(jobs: Jobs, handle: JobHandle) -> int:
    return tree.cookie(tree.marks(jobs.envs[handle.key]))


def test_one_look_finds_all_trees(jobs: Jobs) -> None:
    code = "x = b'x' * (80 << 20)\nopen('held', 'w').close()\nimport time\ntime.sleep(60)"
    first = jobs.start(sys.executable, "-S", "-c", code)
    second = jobs.shell(f"sleep 60 & (setsid sleep 60 &); {burn(0.3)}; touch burnt; wait")
    jobs.wait_for("held")
    jobs.wait_for("burnt")
    trees = TreeUsage()

    def pids() -> int:
        return len(trees.look()[cookie(jobs, second)].pids)

    wait_until(lambda: pids() == 3, what="the shell, its child, and what left its session")
    look = trees.look()
    held, busy = look[cookie(jobs, first)], look[cookie(jobs, second)]
    assert held.pids == {first.pid}
    assert 80 * MIB < (held.used.memory or 0) < 130 * MIB
    assert second.pid in busy.pids
    assert 0.28 <= (busy.used.cpu_s or 0) < 1.5
    assert first.measure(look) == held
    for handle in (first, second):
        handle.stop(grace_s=0)
        end_of(handle)
    both = {cookie(jobs, first), cookie(jobs, second)}
    wait_until(lambda: not both & trees.look().keys(), what="the guard has reaped them")


def test_a_daemon_that_has_ended_still_counts(jobs: Jobs) -> None:
    handle = jobs.shell(
        f"(setsid bash -c '{WAIT}; {burn(0.3)}; touch burnt' &); while [ ! -e end ]; do sleep 0.02; done"
    )
    trees = TreeUsage()

    def count() -> int:
        return len(trees.look()[cookie(jobs, handle)].pids)

    wait_until(lambda: count() >= 3, what="both are seen")
    (jobs.folder / "go").touch()
    jobs.wait_for("burnt")
    wait_until(lambda: count() <= 2, what="the daemon is gone")
    before = trees.look()[cookie(jobs, handle)].used.cpu_s or 0
    (jobs.folder / "end").touch()
    assert end_of(handle).status == 0
    assert (handle.used.cpu_s or 0) >= 0.3, "the guard has reaped it"
    assert before <= (handle.used.cpu_s or 0) + 0.05


def test_a_process_of_no_job_is_opened_seldom(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = jobs.shell("sleep 60")
    trees = TreeUsage()
    trees.look()
    opened: list[int] = []
    read = tree_usage._read

    def note(pid: int) -> object:
        opened.append(pid)
        return read(pid)

    monkeypatch.setattr(tree_usage, "_read", note)
    look = trees.look()
    assert look[cookie(jobs, handle)].pids <= set(opened)
    assert guard_of(jobs.runner) not in opened
    assert os.getpid() not in opened
    os.kill(handle.pid, signal.SIGKILL)
    end_of(handle)


def test_a_look_at_many_idle_jobs_is_cheap(jobs: Jobs) -> None:
    """A limit far above what it takes, for slow machines: a look that opens each process for each job is found."""
    handles = [jobs.start("sleep", "60") for _ in range(30)]
    trees = TreeUsage()
    trees.look()
    took = []
    for _ in range(5):
        begun = time.thread_time()
        assert len(trees.look()) >= 30
        took.append(time.thread_time() - begun)
    # 5 s lie between two looks: 0.2 % of a core for each of 30 jobs would be 0.3 s.
    assert min(took) < 0.1
    for handle in handles:
        handle.stop(grace_s=0)
    for handle in handles:
        end_of(handle)


def test_the_memory_of_a_guards_worker_hides_no_peak(tmp_path: Path) -> None:
    """What a process had before its exec counts for it, but not for its children."""
    held = b"x" * (200 << 20)
    jobs = Jobs(tmp_path)
    handle = jobs.start(sys.executable, "-S", "-c", "x = b'x' * (100 << 20)")
    end_of(handle)
    assert handle.used.peak_memory is not None
    assert 100 * MIB < handle.used.peak_memory < 150 * MIB
    assert len(held) == 200 << 20
    jobs.close()
