"""Guards that outlive their worker and hand its jobs to the next one."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from launch_worker.clock import boot_time_s
from launch_worker.ids import new_run_id
from launch_worker.runners.job import Exited, Gone
from launch_worker.runners.process import tree
from launch_worker.runners.process.confinement import Confinement
from launch_worker.runners.process.exits import Exit, read_exits
from launch_worker.runners.process.handle import JobHandle, LeftJob
from launch_worker.runners.process.protocol import SOCKET
from launch_worker.runners.process.runner import ProcessRunner
from launch_worker.runners.process.takeover import take_over
from tests.conftest import wait_until
from tests.support.processes import guard_of
from tests.support.sandboxes import in_bubblewrap, needs_bubblewrap

#: A job's script: it goes on once the test lets it.
UNTIL_GO = "until [ -e go ]; do sleep 0.05; done"


class Former:
    """A worker that starts one job and leaves it to the next one, all in this process."""

    def __init__(
        self, folder: Path, script: str, *, hold_s: float = 30.0, confinement: Confinement | None = None
    ) -> None:
        self.folder = folder
        self.attempt = folder / "runs" / "r.1.7"
        self.attempt.mkdir(parents=True)
        (folder / "lock").touch()
        self.lock_fd = os.open(folder / "lock", os.O_RDWR)
        self.env = {"PATH": os.environ["PATH"], "LAUNCH_RUN_ID": new_run_id(), "LAUNCH_TOKEN": "7"}
        self.runner = ProcessRunner(lock_fd=self.lock_fd, folder=folder).open()
        self.guard_pid = guard_of(self.runner)
        self.job = self.runner.start(
            ["sh", "-c", script],
            key="r.1",
            env=self.env,
            cwd=folder,
            log_path=self.attempt / "output",
            grace_s=5.0,
            lease=None,
            events=queue.SimpleQueue(),
            timeout_s=20.0,
            confinement=confinement,
        )
        now = boot_time_s()
        self.runner.renew({"r.1": (now + hold_s, now + hold_s + 0.5)})

    def leave(self) -> None:
        self.runner.detach()
        os.close(self.lock_fd)

    def left(self) -> list[tree.ProcessId]:
        return tree.members(None, marked=tree.marks(self.env), spare=[self.guard_pid])

    def kept(self) -> Exit | None:
        """What is in the file of the exits."""
        found = read_exits(str(self.folder)).get(self.attempt.name)
        return None if found is None else found._replace(at=0.0, used=None)

    def claim(self, runner: ProcessRunner, job: LeftJob) -> JobHandle:
        handle = runner.claim(job, env=self.env, grace_s=5.0, events=queue.SimpleQueue())
        runner.open()
        return handle


def end_of(handle: JobHandle) -> Exited:
    exited = handle.events.get(timeout=20.0)
    assert isinstance(exited, Exited)
    assert isinstance(handle.events.get(timeout=20.0), Gone)
    return exited


def taken(folder: Path) -> tuple[ProcessRunner, list[LeftJob], int]:
    return wait_until(lambda: take_over(folder), what="the guard answers")


def let_go(runner: ProcessRunner, lock_fd: int) -> None:
    runner.close()
    os.close(lock_fd)


def test_a_job_that_was_left_ends_under_the_next_worker(tmp_path: Path) -> None:
    former = Former(tmp_path, "echo begun; sleep 0.7; echo done; exit 9")
    former.leave()
    runner, (job,), lock_fd = taken(tmp_path)
    assert (job.key, job.folder, job.main, job.exited) == ("r.1", former.attempt, former.job.main, None)
    handle = former.claim(runner, job)
    assert end_of(handle) == Exited(9, "")
    assert (former.attempt / "output").read_text() == "begun\ndone\n"
    assert runner.is_idle
    let_go(runner, lock_fd)
    wait_until(lambda: not os.path.exists(f"/proc/{former.guard_pid}/exe"), what="the guard has gone")


def test_what_it_has_used_is_told_to_the_next_worker(tmp_path: Path) -> None:
    work = "for n in 1 2 3; do (i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done); done"
    former = Former(tmp_path, f"{work}; {UNTIL_GO}; exit 3")
    former.leave()
    runner, (job,), lock_fd = taken(tmp_path)
    handle = former.claim(runner, job)
    (tmp_path / "go").touch()
    assert end_of(handle) == Exited(3, "")
    assert handle.used.cpu_s is not None
    assert handle.used.cpu_s > 0.02, "with what it had used before"
    let_go(runner, lock_fd)


@needs_bubblewrap
def test_one_in_a_sandbox_is_signalled_and_ends_as_before(tmp_path: Path) -> None:
    former = Former(tmp_path, f"touch begun; {UNTIL_GO}", confinement=in_bubblewrap(tmp_path))
    wait_until((tmp_path / "begun").exists)
    former.leave()
    runner, (job,), lock_fd = taken(tmp_path)
    handle = former.claim(runner, job)
    handle.signal("SIGUSR1", to_all=False)
    assert end_of(handle) == Exited(-signal.SIGUSR1, "")
    let_go(runner, lock_fd)


def test_it_can_be_stopped_and_its_lease_enforced_as_before(tmp_path: Path) -> None:
    for stop in (True, False):
        folder = tmp_path / str(stop)
        former = Former(folder, "trap 'exit 3' TERM; while :; do sleep 0.05; done")
        wait_until(lambda: len(former.left()) > 1, what="the job has begun")  # noqa: B023
        former.leave()
        runner, (job,), lock_fd = taken(folder)
        handle = former.claim(runner, job)
        if stop:
            handle.stop(grace_s=5.0)
        else:
            runner.renew({"r.1": (boot_time_s() + 0.2, boot_time_s() + 5.0)})
        assert end_of(handle) == Exited(3, "asked" if stop else "lease")
        let_go(runner, lock_fd)


def test_one_that_ended_while_there_was_no_worker_left_its_exit_status_on_disk(tmp_path: Path) -> None:
    former = Former(tmp_path, "sleep 0.3; exit 5")
    former.leave()
    wait_until(former.kept, what="the status is kept")
    assert former.kept() == Exit(5, "")
    wait_until(lambda: not os.path.exists(f"/proc/{former.guard_pid}/exe"), what="the guard has nothing to do")
    assert take_over(tmp_path) is None


def test_one_whose_main_process_ended_but_not_its_tree_is_handed_over_with_its_exit_status(tmp_path: Path) -> None:
    former = Former(tmp_path, f"(trap '' TERM; {UNTIL_GO}) & exit 6")
    former.leave()
    wait_until(former.kept, what="the main process has ended")
    runner, (job,), lock_fd = taken(tmp_path)
    assert job.exited == Exited(6, "")
    assert job.exited.is_kept
    handle = former.claim(runner, job)
    (tmp_path / "go").touch()
    assert end_of(handle) == Exited(6, "")
    let_go(runner, lock_fd)


def test_one_that_nobody_takes_is_ended_when_its_lease_is_over(tmp_path: Path) -> None:
    former = Former(tmp_path, "trap '' TERM; while :; do sleep 0.05; done", hold_s=0.5)
    former.leave()
    wait_until(lambda: not former.left(), what="the job is gone")
    assert former.kept() == Exit(-signal.SIGKILL, "lease"), "it did not end by itself"


def test_a_job_can_be_handed_on_again_and_again(tmp_path: Path) -> None:
    former = Former(tmp_path, f"{UNTIL_GO}; exit 4")
    former.leave()
    for _ in range(3):
        runner, (job,), lock_fd = taken(tmp_path)
        former.claim(runner, job)
        runner.detach()
        os.close(lock_fd)
    runner, (job,), lock_fd = taken(tmp_path)
    (tmp_path / "go").touch()
    assert end_of(former.claim(runner, job)) == Exited(4, "")
    let_go(runner, lock_fd)


def test_a_next_worker_that_dies_too_takes_its_jobs_with_it(tmp_path: Path) -> None:
    """It did not detach itself: the guard ends them, as ever."""
    former = Former(tmp_path, "sleep 600")
    former.leave()
    program = (
        "import sys, time; from pathlib import Path; from launch_worker.runners.process.takeover import take_over;"
        "runner, jobs, lock = take_over(Path(sys.argv[1])); runner.tell({'do': 'lease', 'leases': {}});"
        "print(len(jobs), flush=True); time.sleep(600)"
    )
    heir = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert heir.stdout is not None
    assert heir.stdout.readline() == b"1\n"
    assert former.left()
    heir.kill()
    heir.wait()
    heir.stdout.close()
    wait_until(lambda: not former.left(), what="the job is gone")


def test_a_guard_that_dies_under_the_next_worker_is_replaced_and_the_job_goes_on(tmp_path: Path) -> None:
    former = Former(tmp_path, "sleep 600")
    former.leave()
    runner, (job,), lock_fd = taken(tmp_path)
    handle = former.claim(runner, job)
    os.kill(former.guard_pid, signal.SIGKILL)
    wait_until(lambda: runner.guard.process is not None, what="another guard is there")
    assert job.main in former.left()
    handle.stop(grace_s=5.0)
    exited = end_of(handle)
    assert exited.stopped_by == "asked"
    let_go(runner, lock_fd)


def test_a_worker_that_leaves_as_its_guard_is_replaced_leaves_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    former = Former(tmp_path, "sleep 600")
    tell = former.runner._carry_over

    def tell_late(handle: JobHandle) -> None:
        time.sleep(0.3)
        tell(handle)

    monkeypatch.setattr(former.runner, "_carry_over", tell_late)
    os.kill(former.guard_pid, signal.SIGKILL)
    wait_until(lambda: guard_of(former.runner) != former.guard_pid, what="another guard is there")
    former.leave()
    runner, (job,), lock_fd = taken(tmp_path)
    handle = former.claim(runner, job)
    handle.stop(grace_s=0)
    assert end_of(handle).stopped_by == "asked"
    let_go(runner, lock_fd)


def test_the_folder_stays_locked_from_worker_to_worker(tmp_path: Path) -> None:
    import fcntl

    former = Former(tmp_path, "sleep 600")
    fcntl.flock(former.lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    former.leave()

    def is_locked() -> bool:
        with (tmp_path / "lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return True
            return False

    assert is_locked()
    runner, (job,), lock_fd = taken(tmp_path)
    handle = former.claim(runner, job)
    os.kill(former.guard_pid, signal.SIGKILL)
    wait_until(lambda: runner.guard.process is not None, what="another guard is there")
    assert is_locked()
    handle.stop(grace_s=0)
    end_of(handle)
    let_go(runner, lock_fd)
    wait_until(lambda: not is_locked(), what="it is let go of")


@pytest.mark.parametrize("greeting", [b"", b"garbage\n", b'{"do": "take", "protocol": 999}\n', b'{"do": "stop"}\n'])
def test_who_does_not_speak_its_language_gets_nothing_and_the_next_one_is_served(
    tmp_path: Path, greeting: bytes
) -> None:
    former = Former(tmp_path, "sleep 600")
    former.leave()
    with socket.socket(socket.AF_UNIX) as guest:
        guest.connect(str(tmp_path / SOCKET)) if len(str(tmp_path)) < 90 else pytest.skip("a long path")
        guest.sendall(greeting)
        if not greeting:
            guest.shutdown(socket.SHUT_WR)
        guest.settimeout(5.0)
        answer = guest.recv(1000)
        assert not answer or json.loads(answer)["on"] == "refused"
    runner, (job,), lock_fd = taken(tmp_path)
    handle = former.claim(runner, job)
    handle.stop(grace_s=0)
    end_of(handle)
    let_go(runner, lock_fd)


#: A program that waits for the jobs as the next worker does, and writes what it is answered.
KNOCK = """
import os, socket, sys
if sys.argv[2] == "hidden":
    import resource
    resource.setrlimit(10, (1 << 40, resource.getrlimit(10)[1]))
    if os.fork() == 0:
        os.setsid()
        os.execve(sys.executable, [sys.executable, sys.argv[1], sys.argv[1], "found"], {})
        os._exit(1)
    os._exit(0)
door = socket.socket(socket.AF_UNIX)
door.connect("guard.sock")
door.sendall(b'{"do": "take", "protocol": 1}\\n')
open("knocked", "w").close()
answer = door.recv(1000)
open("partial", "wb").write(answer)
os.rename("partial", "answer")
"""


@pytest.mark.parametrize("way", ["plain", "hidden"])
def test_a_job_that_waits_at_the_guards_door_does_not_become_its_worker(tmp_path: Path, way: str) -> None:
    (tmp_path / "knock.py").write_text(KNOCK)
    former = Former(tmp_path, f"{sys.executable} knock.py knock.py {way} & {UNTIL_GO}; exit 3")
    wait_until((tmp_path / "knocked").exists, what="the job has knocked")
    former.leave()
    wait_until((tmp_path / "answer").exists, what="an answer")
    assert json.loads((tmp_path / "answer").read_bytes())["on"] == "refused"
    runner, (job,), lock_fd = taken(tmp_path)
    (tmp_path / "go").touch()
    assert end_of(former.claim(runner, job)) == Exited(3, "")
    let_go(runner, lock_fd)


def test_a_guard_whose_worker_lives_is_not_taken_over(tmp_path: Path) -> None:
    former = Former(tmp_path, "sleep 600")
    begun = boot_time_s()
    assert take_over(tmp_path) is None
    assert boot_time_s() - begun < 3
    assert former.left()
    former.job.stop(grace_s=0)
    end_of(former.job)
    former.runner.close()
    os.close(former.lock_fd)


def test_a_very_long_folder_is_no_obstacle(tmp_path: Path) -> None:
    """The kernel allows a socket's path 108 bytes."""
    folder = tmp_path / ("x" * 120)
    former = Former(folder, "exit 0")
    end_of(former.job)
    former.runner.close()
    os.close(former.lock_fd)
    assert (folder / SOCKET).exists()


def test_events_are_told_in_one_order(tmp_path: Path) -> None:
    """What `claim` puts in is read before what the guard tells."""
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    former = Former(tmp_path, f"(trap '' TERM; {UNTIL_GO}) & exit 2")
    former.leave()
    wait_until(former.kept, what="the main process has ended")
    runner, (job,), lock_fd = taken(tmp_path)
    runner.claim(job, env=former.env, grace_s=5.0, events=events)
    runner.open()
    (tmp_path / "go").touch()
    assert [type(events.get(timeout=20.0)) for _ in range(2)] == [Exited, Gone]
    let_go(runner, lock_fd)


needs_status_of_pidfd = pytest.mark.skipif(
    tuple(map(int, os.uname().release.split("-")[0].split(".")[:2])) < (6, 15),
    reason="before Linux 6.15 only the parent of a process is told its exit status",
)


def test_a_job_that_came_back_to_its_worker_and_ended_as_that_left_is_kept(tmp_path: Path) -> None:
    """Its first guard died. The worker reaps it, and nobody supervises it any more."""
    former = Former(tmp_path, "while [ ! -e go ]; do sleep 0.01; done; exit 9")
    os.kill(former.guard_pid, signal.SIGKILL)
    wait_until(lambda: guard_of(former.runner) != former.guard_pid and former.runner.guard.knows, what="another guard")
    (tmp_path / "go").touch()
    wait_until(former.kept, what="the status is kept before it is told")
    former.leave()
    assert former.kept() == Exit(9, "")
    assert end_of(former.job) == Exited(9, "")
    assert former.job.exited is not None
    assert former.job.exited.is_kept


ADOPTED = """
import os, queue, signal, sys, time
from pathlib import Path
from launch_worker.clock import boot_time_s
from launch_worker.runners.process.runner import ProcessRunner

folder = Path(sys.argv[1])
lock_fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
runner = ProcessRunner(lock_fd=lock_fd, folder=folder).open()
(folder / "runs" / "r.1.7").mkdir(parents=True)
env = {"PATH": os.environ["PATH"], "LAUNCH_RUN_ID": sys.argv[2], "LAUNCH_TOKEN": "7"}
job = runner.start(
    ["sh", "-c", "while [ ! -e go ]; do sleep 0.01; done; exit 9"], key="r.1", env=env, cwd=folder,
    log_path=folder / "runs" / "r.1.7" / "output", grace_s=5.0, lease=None, events=queue.SimpleQueue(), timeout_s=20.0,
)
former = runner.guard.process.pid
os.kill(former, signal.SIGKILL)
while runner.guard.process.pid == former or not runner.guard.knows:
    time.sleep(0.01)
now = boot_time_s()
runner.renew({"r.1": (now + 60.0, now + 61.0)})
runner.detach()
print("left", flush=True)
sys.stdin.read()
"""


@needs_status_of_pidfd
@pytest.mark.parametrize("ends", ["while its worker leaves", "when its worker has left"])
@pytest.mark.parametrize("heir", [True, False])
def test_a_job_whose_guard_had_died_keeps_its_status_when_its_worker_is_replaced(
    tmp_path: Path, ends: str, heir: bool
) -> None:
    run_id = new_run_id()
    worker = subprocess.Popen(
        [sys.executable, "-c", ADOPTED, str(tmp_path), run_id], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"left\n"
    taken_over = taken(tmp_path) if heir else None
    if ends == "while its worker leaves":
        (tmp_path / "go").touch()
    assert worker.stdin is not None
    worker.stdin.close()
    worker.stdout.close()
    worker.wait(20)
    if ends != "while its worker leaves":
        (tmp_path / "go").touch()
    if taken_over is not None:
        runner, (job,), lock_fd = taken_over
        env = {"LAUNCH_RUN_ID": run_id, "LAUNCH_TOKEN": "7"}
        handle = runner.claim(job, env=env, grace_s=5.0, events=queue.SimpleQueue())
        runner.open()
        assert end_of(handle) == Exited(9, "")
        let_go(runner, lock_fd)
    marked = tree.marks({"LAUNCH_RUN_ID": run_id, "LAUNCH_TOKEN": "7"})

    def is_kept() -> bool:
        # This process may be a subreaper by other tests, and so the one that an init is elsewhere.
        for pid in tree.children(os.getpid()) or ():
            if tree.has_cookie(pid, tree.cookie(marked)):
                os.waitpid(pid, os.WNOHANG)
        found = read_exits(str(tmp_path)).get("r.1.7")
        return found is not None and found[:2] == (9, "")

    wait_until(is_kept, what="the status is kept")
