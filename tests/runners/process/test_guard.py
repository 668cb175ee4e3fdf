"""The guard ends whole trees: on request, after the main process, for a lease, and when its worker is gone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch_worker.clock import boot_time_s
from launch_worker.ids import new_run_id
from launch_worker.runners.job import Exited, Gone
from launch_worker.runners.process import tree
from launch_worker.runners.process.handle import JobHandle
from launch_worker.runners.process.tree import ProcessId
from tests.conftest import wait_until
from tests.support.processes import Jobs, end_of, guard_of, pid_in

#: Ways in which a job can leave a process behind that is not in its session; each writes its pid to $HERE/pid.
AWAY = {
    "own group": "bash -c 'set -m; (echo $BASHPID > $HERE/pid; exec sleep 600) & wait'",
    "own session": "setsid bash -c 'echo $$ > $HERE/pid; exec sleep 600'",
    "own session, ignores SIGTERM": "setsid bash -c 'trap \"\" TERM; echo $$ > $HERE/pid; while :; do sleep 1; done'",
    "double fork": "(setsid bash -c 'echo $$ > $HERE/pid; exec sleep 600' &)",
    "cleared environment": "env -i HERE=$HERE setsid bash -c 'echo $$ > $HERE/pid; exec sleep 600'",
    "double fork, cleared environment": "(env -i HERE=$HERE setsid bash -c 'echo $$ > $HERE/pid; exec sleep 600' &)",
}
WAIT = "while :; do sleep 1; done"
#: Seconds, less than the grace of a job that is given none. A machine that stalls takes some of them.
SOON_S = 8.0


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    made = Jobs(tmp_path)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """Ends what a failed test left; it has no mark but its pid."""
    yield
    for path in tmp_path.glob("pid*"):
        found = tree.look_up(int(path.read_text() or 0))
        if found is not None:
            tree.send(found.id, signal.SIGKILL)


def stop(handle: JobHandle, *, grace_s: float) -> tuple[Exited, float]:
    """Stop the job; its end, and the seconds until nothing was left of it."""
    begun = time.monotonic()
    handle.stop(grace_s=grace_s)
    exited = end_of(handle)
    return exited, time.monotonic() - begun


# -- stop --------------------------------------------------------------------------------------------------------------


def test_a_job_that_ends_on_sigterm_gets_no_sigkill(jobs: Jobs) -> None:
    """P20."""
    handle = jobs.shell("trap 'echo bye; exit 4' TERM; touch ready; while :; do sleep 0.05; done")
    jobs.wait_for("ready")
    exited, took_s = stop(handle, grace_s=30.0)
    assert exited == Exited(4, "asked")
    assert took_s < SOON_S
    assert b"bye\n" in jobs.log(handle)


def test_a_job_that_ignores_sigterm_is_killed_when_its_grace_is_over(jobs: Jobs) -> None:
    """P21."""
    handle = jobs.shell("trap '' TERM; touch ready; while :; do sleep 0.05; done")
    jobs.wait_for("ready")
    exited, took_s = stop(handle, grace_s=1.0)
    assert exited == Exited(-signal.SIGKILL, "asked")
    assert 1.0 <= took_s < SOON_S


def test_grace_zero_is_sigkill_at_once(jobs: Jobs) -> None:
    """W16."""
    handle = jobs.shell("trap 'echo no > $HERE/asked' TERM; touch ready; while :; do sleep 0.05; done")
    jobs.wait_for("ready")
    exited, took_s = stop(handle, grace_s=0)
    assert exited == Exited(-signal.SIGKILL, "asked")
    assert took_s < SOON_S
    assert not (jobs.folder / "asked").exists()


def test_a_second_stop_shortens_the_grace_and_never_lengthens_it(jobs: Jobs) -> None:
    handle = jobs.shell("trap '' TERM; touch ready; while :; do sleep 0.05; done")
    jobs.wait_for("ready")
    handle.stop(grace_s=60.0)
    handle.stop(grace_s=0.3)
    exited, took_s = stop(handle, grace_s=60.0)
    assert exited == Exited(-signal.SIGKILL, "asked")
    assert took_s < SOON_S


def test_a_silent_job_is_gone_within_its_grace(jobs: Jobs) -> None:
    """X3."""
    exited, took_s = stop(jobs.start("sleep", "600"), grace_s=30.0)
    assert exited == Exited(-signal.SIGTERM, "asked")
    assert took_s < SOON_S


def test_a_stopped_job_is_woken_to_end(jobs: Jobs) -> None:
    """Section 7: also a job that was frozen."""
    handle = jobs.shell("trap 'exit 6' TERM; touch ready; while :; do sleep 0.05; done")
    jobs.wait_for("ready")
    os.kill(handle.pid, signal.SIGSTOP)
    exited, took_s = stop(handle, grace_s=30.0)
    assert exited == Exited(6, "asked")
    assert took_s < SOON_S


@pytest.mark.parametrize("way", AWAY)
def test_stop_ends_what_went_away(jobs: Jobs, way: str) -> None:
    """Section 7: forks, double-forks, daemonises."""
    handle = jobs.shell(f"{AWAY[way]} & {WAIT}")
    away = pid_in(jobs.folder / "pid")
    _, took_s = stop(handle, grace_s=1.0)
    assert not tree.is_alive(away)
    assert jobs.members(handle) == []
    assert took_s < SOON_S


def test_stop_ends_a_tree_that_forks_all_the_time(jobs: Jobs) -> None:
    handle = jobs.shell("trap '' TERM; while :; do (trap '' TERM; sleep 0.2; exec sleep 600) & sleep 0.02; done")
    wait_until(lambda: len(jobs.members(handle)) > 5)
    _, took_s = stop(handle, grace_s=0.3)
    assert jobs.members(handle) == []
    assert took_s < SOON_S


def test_stop_touches_no_other_job(jobs: Jobs) -> None:
    first, second = jobs.shell(WAIT), jobs.shell(WAIT)
    stop(first, grace_s=1.0)
    assert tree.is_alive(ProcessId(*second.main)) if second.main else False
    assert second.events.empty()
    assert stop(second, grace_s=1.0)[0].stopped_by == "asked"


def test_stopping_an_ended_job_is_harmless(jobs: Jobs) -> None:
    """P16, P25."""
    handle = jobs.start("true")
    end_of(handle)
    handle.stop(grace_s=0)
    assert end_of(jobs.shell("exit 3")) == Exited(3, "")
    assert handle.events.empty()


def test_a_job_that_ended_by_itself_before_the_stop_keeps_its_own_end(jobs: Jobs) -> None:
    """P25: its leftovers hold up the end, and the stop comes in between."""
    handle = jobs.shell(
        "setsid bash -c 'trap \"\" TERM; echo $$ > pid; while :; do sleep 0.1; done' & wait -n; exit 3", grace_s=60.0
    )
    left = pid_in(jobs.folder / "pid")
    os.kill(handle.pid, signal.SIGKILL)
    assert handle.events.get(timeout=20) == Exited(-signal.SIGKILL, "")
    handle.stop(grace_s=0)
    wait_until(lambda: not handle.events.empty(), what="the shorter grace counts for the leftovers")
    assert not tree.is_alive(left)


# -- what is left after the end ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", AWAY)
def test_leftovers_of_a_job_that_ended_by_itself_are_ended(jobs: Jobs, way: str) -> None:
    handle = jobs.shell(f"{AWAY[way]} & while [ ! -e go ]; do sleep 0.01; done; exit 3")
    away = pid_in(jobs.folder / "pid")
    (jobs.folder / "go").touch()
    assert end_of(handle) == Exited(3, "")
    assert not tree.is_alive(away)


@pytest.mark.parametrize("way", ["double fork", "double fork, cleared environment"])
def test_a_daemon_ends_with_its_own_job_while_another_job_runs(jobs: Jobs, way: str) -> None:
    """Section 7: cancel ends the whole tree, whatever else the worker does."""
    other = jobs.shell(WAIT)
    handle = jobs.shell(f"{AWAY[way]} & {WAIT}")
    away = pid_in(jobs.folder / "pid")
    stop(handle, grace_s=1.0)
    assert not tree.is_alive(away)
    assert other.events.empty()
    stop(other, grace_s=1.0)


def test_a_daemon_of_another_job_is_left_alone(jobs: Jobs) -> None:
    other = jobs.shell(f"{AWAY['double fork']} & {WAIT}")
    daemon = pid_in(jobs.folder / "pid")
    assert end_of(jobs.start("true")).status == 0
    stop(jobs.shell(WAIT), grace_s=1.0)
    assert tree.is_alive(daemon)
    stop(other, grace_s=1.0)
    assert not tree.is_alive(daemon)


# -- leases ------------------------------------------------------------------------------------------------------------


UNTIL_GO = "while [ ! -e go ]; do sleep 0.05; done; exit 5"


def outlive(jobs: Jobs, boot_s: float) -> None:
    """Let a job end only after this time."""
    wait_until(lambda: boot_time_s() > boot_s, what="the first lease is over")
    (jobs.folder / "go").touch()


def test_a_job_whose_lease_is_not_renewed_is_ended_before_its_deadline(jobs: Jobs) -> None:
    """Section 7: it never runs twice."""
    now = boot_time_s()
    handle = jobs.shell("trap '' TERM; while :; do sleep 0.05; done", lease=(now + 2.0, now + 2.5))
    assert end_of(handle) == Exited(-signal.SIGKILL, "lease")
    assert now + 2.5 <= boot_time_s() < now + 2.5 + SOON_S


def test_a_lease_gives_sigterm_first(jobs: Jobs) -> None:
    now = boot_time_s()
    handle = jobs.shell("trap 'exit 9' TERM; while :; do sleep 0.05; done", lease=(now + 2.0, now + 30))
    assert end_of(handle) == Exited(9, "lease")


def test_a_renewed_lease_lets_the_job_go_on(jobs: Jobs) -> None:
    now = boot_time_s()
    handle = jobs.shell(UNTIL_GO, lease=(now + 3.0, now + 3.1))
    jobs.runner.renew({handle.key: (now + 60, now + 61), "unknown": None})
    outlive(jobs, now + 3.5)
    assert end_of(handle) == Exited(5, "")


def test_a_lease_that_is_taken_away_lets_the_job_outlive_it(jobs: Jobs) -> None:
    now = boot_time_s()
    handle = jobs.shell(UNTIL_GO, lease=(now + 3.0, now + 3.1))
    jobs.runner.renew({handle.key: None})
    outlive(jobs, now + 3.5)
    assert end_of(handle) == Exited(5, "")


def test_a_lease_holds_across_the_guards_death(jobs: Jobs) -> None:
    now = boot_time_s()
    handle = jobs.shell(WAIT, lease=(now + 3.0, now + 3.5))
    jobs.kill_guard()
    exited = end_of(handle)
    assert exited.stopped_by == "lease"


def test_a_job_that_its_guard_ended_for_its_lease_and_told_nobody_did_not_end_by_itself(jobs: Jobs) -> None:
    handle = jobs.shell(WAIT)
    os.kill(guard_of(jobs.runner), signal.SIGSTOP)
    now = boot_time_s()
    jobs.runner.renew({handle.key: (now - 1.0, now - 0.5)})
    os.kill(handle.pid, signal.SIGKILL)  # as that guard, which dies then
    jobs.kill_guard()
    assert end_of(handle) == Exited(-signal.SIGKILL, "lease")


# -- a worker that dies or freezes -------------------------------------------------------------------------------------

WORKER = """
import json, queue, sys, time
from pathlib import Path
from launch_worker.clock import boot_time_s
from launch_worker.runners.process.runner import ProcessRunner

scripts, env, folder, lease_s = json.loads(sys.argv[1])
runner = ProcessRunner().open()
now = boot_time_s()
jobs = [
    runner.start(
        ["bash", "-c", script], key=script, env=env | {"LAUNCH_TOKEN": str(number)}, cwd=folder,
        log_path=Path(folder, "log"), grace_s=60.0,
        lease=(now + lease_s, now + lease_s + 0.5) if lease_s else None, events=queue.SimpleQueue(), timeout_s=20.0,
    )
    for number, script in enumerate(scripts)
]
print(json.dumps([runner.guard.process.pid, *(job.pid for job in jobs)]), flush=True)
time.sleep(600)
"""


class Worker:
    """A worker process with jobs, to be killed or frozen."""

    def __init__(self, folder: Path, *scripts: str, lease_s: float = 0.0) -> None:
        self.env = {"PATH": os.environ["PATH"], "HERE": str(folder), "LAUNCH_RUN_ID": new_run_id()}
        order = json.dumps([scripts, self.env, str(folder), lease_s])
        self.process = subprocess.Popen([sys.executable, "-c", WORKER, order], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.guard, *self.jobs = (self.identify(pid) for pid in json.loads(self.process.stdout.readline()))

    def identify(self, pid: int) -> ProcessId:
        found = tree.look_up(pid)
        assert found is not None
        return found.id

    def left(self) -> list[ProcessId]:
        found = []
        for number, job in enumerate(self.jobs):
            found += tree.members(job, marked=tree.marks({**self.env, "LAUNCH_TOKEN": str(number)}))
        return found

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        wait_until(lambda: not tree.is_alive(self.guard), what="the guard is gone")
        # It came to this process if that is a subreaper.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.guard.pid, os.WNOHANG)


@pytest.mark.parametrize(
    "script",
    [
        "exec sleep 600",
        f"trap '' TERM; {WAIT}",
        *(f"{AWAY[way]} & {WAIT}" for way in AWAY),
    ],
    ids=["plain", "ignores SIGTERM", *AWAY],
)
def test_nothing_of_a_killed_workers_job_is_left_within_five_seconds(tmp_path: Path, script: str) -> None:
    """P30, section 7."""
    worker = Worker(tmp_path, script)
    try:
        away = pid_in(tmp_path / "pid") if "HERE/pid" in script else worker.jobs[0]
        worker.process.kill()
        wait_until(lambda: not worker.left() and not tree.is_alive(away) and not tree.is_alive(worker.guard))
    finally:
        worker.close()


#: Its main process ends when $HERE/go is there; what it leaves behind ignores SIGTERM, for 2 s.
LINGERS = (
    "setsid bash -c 'trap \"\" TERM; echo $$ > $HERE/pid; exec sleep 600' & "
    "while [ ! -e $HERE/go ]; do sleep 0.01; done"
)


def test_all_jobs_of_a_killed_worker_end_though_one_ended_at_that_moment(tmp_path: Path) -> None:
    """P30: the guard learns of both in one turn."""
    worker = Worker(tmp_path, LINGERS, WAIT)
    try:
        left = pid_in(tmp_path / "pid")
        (tmp_path / "go").touch()
        wait_until(lambda: tree.look_up(worker.jobs[0].pid) is None, what="the guard knows of the end")
        # By now the guard looks at the job ten times a second: both deaths fall between two looks.
        time.sleep(0.3)
        os.kill(worker.guard.pid, signal.SIGSTOP)
        tree.send(left, signal.SIGKILL)
        worker.process.kill()
        worker.process.wait()
        os.kill(worker.guard.pid, signal.SIGCONT)
        wait_until(lambda: not worker.left(), what="nothing is left of both jobs")
    finally:
        for job in worker.jobs:
            tree.send(job, signal.SIGKILL)
        worker.close()


def test_a_guard_survives_a_lease_that_runs_out_when_its_job_has_just_ended(jobs: Jobs) -> None:
    guard_pid = guard_of(jobs.runner)
    now = boot_time_s()
    handle = jobs.shell(LINGERS, lease=(now + 3.0, now + 30.0))
    left = pid_in(jobs.folder / "pid")
    (jobs.folder / "go").touch()
    assert handle.events.get(timeout=20) == Exited(0, "")
    os.kill(guard_pid, signal.SIGSTOP)
    tree.send(left, signal.SIGKILL)
    wait_until(lambda: boot_time_s() > now + 3.0)
    os.kill(guard_pid, signal.SIGCONT)
    assert handle.events.get(timeout=20) == Gone()
    assert end_of(jobs.start("true")) == Exited(0, "")
    assert guard_of(jobs.runner) == guard_pid


def test_the_job_of_a_frozen_worker_is_ended_by_its_lease(tmp_path: Path) -> None:
    """Section 7: it never runs twice."""
    worker = Worker(tmp_path, f"trap '' TERM; {WAIT}", lease_s=3.0)
    try:
        worker.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: not worker.left(), what="the job is gone")
        assert tree.is_alive(worker.guard)
    finally:
        worker.close()


def test_a_worker_and_its_guard_that_are_told_to_hang_up_keep_the_job(tmp_path: Path) -> None:
    """A terminal's Ctrl-C or hang-up is for the worker to decide about, not for its guard."""
    worker = Worker(tmp_path, WAIT)
    try:
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT):
            os.kill(worker.guard.pid, number)
        time.sleep(0.3)
        assert tree.is_alive(worker.guard)
        assert tree.is_alive(worker.jobs[0])
    finally:
        worker.close()


def test_a_job_that_is_being_stopped_with_a_long_grace_is_still_bound_to_its_lease(jobs: Jobs) -> None:
    now = boot_time_s()
    handle = jobs.shell("trap '' TERM; echo $$ > pid; while :; do sleep 0.05; done", lease=(now + 3.0, now + 3.5))
    pid_in(jobs.folder / "pid")
    handle.stop(grace_s=60.0)
    assert end_of(handle).status == -signal.SIGKILL
    assert boot_time_s() < now + 3.5 + SOON_S, "long before its grace is over"


def test_an_order_behind_the_workers_end_starts_nothing(tmp_path: Path) -> None:
    """Two starts lie in the socket when the worker is killed: neither job may stay."""
    ours, theirs = socket.socketpair()
    root = str(Path(tree.__file__).parents[3])
    program = f"import sys; sys.path.insert(0, {root!r}); from launch_worker.runners.process.guard import main; main()"
    guard = subprocess.Popen([sys.executable, "-S", "-c", program, str(theirs.fileno())], pass_fds=[theirs.fileno()])
    theirs.close()
    assert json.loads(ours.recv(1000))["on"] == "hello"
    os.kill(guard.pid, signal.SIGSTOP)
    for number in (1, 2):
        env = {"PATH": os.environ["PATH"], "LAUNCH_RUN_ID": f"late{number}-{tmp_path.name}", "LAUNCH_TOKEN": "1"}
        order = {"do": "start", "key": str(number), "grace_s": 1, "argv": ["sleep", "600"], "env": env, "cwd": "/"}
        ours.sendall(json.dumps(order | {"log": str(tmp_path / "output"), "lease": None}).encode() + b"\n")
    ours.close()
    os.kill(guard.pid, signal.SIGCONT)
    assert guard.wait(20) == 0
    for number in (1, 2):
        env = {"LAUNCH_RUN_ID": f"late{number}-{tmp_path.name}", "LAUNCH_TOKEN": "1"}
        assert not tree.members(None, marked=tree.marks(env))
