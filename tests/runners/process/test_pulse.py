"""A worker whose interpreter stands still is ended by its guard, with its jobs; one that only waits is not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch_worker.runners.process import tree
from launch_worker.runners.process.tree import ProcessId
from tests.conftest import wait_until
from tests.runners.process.test_guard_orders import Traced

#: A worker with one job, or the next one that takes it over. It is hung after a second. A line on its input holds up
#: all its threads.
WORKER = """
import ctypes, os, queue, sys
from pathlib import Path
from launch_worker.runners.process.runner import ProcessRunner
from launch_worker.runners.process.takeover import take_over
folder, lock = Path(sys.argv[1]), int(sys.argv[2])
if sys.argv[3] == "next":
    while (taken := take_over(folder, hung_after_s=1.0)) is None:
        pass
    runner, (left,), _ = taken
    env = {"LAUNCH_RUN_ID": sys.argv[4], "LAUNCH_TOKEN": "1"}
    job = runner.claim(left, env=env, grace_s=1.0, events=queue.SimpleQueue())
    runner.open()
    runner.tell({"do": "lease", "leases": {}})
else:
    runner = ProcessRunner(lock_fd=lock, folder=folder, hung_after_s=1.0).open()
    env = {"LAUNCH_RUN_ID": sys.argv[4], "LAUNCH_TOKEN": "1", "PATH": os.environ["PATH"]}
    job = runner.start(
        ["sleep", "600"], key="r.1", env=env, cwd="/", log_path=folder / "output", grace_s=1.0, lease=None,
        events=queue.SimpleQueue(), timeout_s=20.0,
    )
guards = [pid for pid in map(int, Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())]
print(job.pid, *guards, flush=True)
if sys.stdin.readline().startswith("detach"):
    runner.detach()
else:
    ctypes.PyDLL(None).sleep(60)
"""


class Worker:
    """Such a process."""

    def __init__(self, folder: Path, lock: int, *, is_next: bool = False) -> None:
        self.process = subprocess.Popen(
            # By the last word the job's processes are found, and no other test's.
            [sys.executable, "-c", WORKER, str(folder), str(lock), "next" if is_next else "first", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[lock],
        )
        assert self.process.stdout is not None
        pids = [int(word) for word in self.process.stdout.readline().split()]
        found = tree.look_up(pids[0])
        assert found is not None
        self.job: ProcessId = found.id
        self.guard = pids[1] if len(pids) > 1 else 0

    def say(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n".encode())
        self.process.stdin.flush()

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        self.process.kill()
        self.process.wait()
        wait_until(lambda: not tree.is_alive(self.job), what="its job is gone")


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.fixture
def worker(tmp_path: Path, lock: int) -> Iterator[Worker]:
    made = Worker(tmp_path, lock)
    yield made
    made.close()


@pytest.mark.parametrize("how", ["a call that holds the interpreter", "SIGSTOP"])
def test_a_hung_worker_is_killed_and_its_job_ended(worker: Worker, how: str) -> None:
    if how == "SIGSTOP":
        worker.process.send_signal(signal.SIGSTOP)
    else:
        worker.say("hold")
    assert worker.process.wait(20) == -signal.SIGKILL
    wait_until(lambda: not tree.is_alive(worker.job), what="its job is ended")


def test_the_next_worker_s_pulse_is_watched_too(tmp_path: Path, lock: int) -> None:
    first = Worker(tmp_path, lock)
    first.say("detach")
    assert first.process.wait(20) == 0
    heir = Worker(tmp_path, lock, is_next=True)
    try:
        assert heir.job == first.job
        heir.process.send_signal(signal.SIGSTOP)
        assert heir.process.wait(20) == -signal.SIGKILL
        wait_until(lambda: not tree.is_alive(heir.job), what="its job is ended")
    finally:
        heir.close()
        first.close()


def test_a_worker_that_has_nothing_to_say_lives(worker: Worker) -> None:
    """Nobody renews a lease here; it answers when it is asked."""
    with pytest.raises(subprocess.TimeoutExpired):
        worker.process.wait(3.0)
    assert tree.is_alive(worker.job)


def test_a_machine_that_stood_still_is_no_hung_worker(worker: Worker) -> None:
    """The guard counts what it has seen itself."""
    for _ in range(2):
        for pid in (worker.process.pid, worker.guard):
            os.kill(pid, signal.SIGSTOP)
        time.sleep(1.5)
        for pid in (worker.guard, worker.process.pid):
            os.kill(pid, signal.SIGCONT)
    with pytest.raises(subprocess.TimeoutExpired):
        worker.process.wait(2.0)
    assert tree.is_alive(worker.job)


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Traced]:
    made = Traced(tmp_path)
    yield made
    if made.process.poll() is None:
        made.close()


def test_a_worker_that_never_said_that_it_answers_is_not_asked(guard: Traced) -> None:
    """As one of an older release."""
    guard.start("a", "sleep", "1.5")
    assert [guard.hear()["on"] for _ in range(3)] == ["started", "exited", "gone"]


def test_an_answer_after_detach_does_not_undo_it(guard: Traced) -> None:
    guard.start("a", "sleep", "600", lease=[9e9, 9e9])
    guard.tell({"do": "pulse", "within_s": 20.0})
    pid = guard.hear()["pid"]
    job = tree.look_up(pid)
    assert job is not None
    for order in ("detach", "alive"):
        guard.tell({"do": order})
    guard.lines.close()
    guard.control.close()
    with pytest.raises(subprocess.TimeoutExpired):
        guard.process.wait(1.0)
    assert tree.is_alive(job.id)
    os.kill(pid, signal.SIGKILL)
    guard.process.communicate(timeout=20)


def test_an_idle_guard_asks_nothing(guard: Traced) -> None:
    """It would keep an idle machine awake."""
    guard.tell({"do": "pulse", "within_s": 0.5})
    time.sleep(1.0)
    guard.start("a", "true")
    heard = [guard.hear()["on"] for _ in range(3)]
    assert "ping" not in heard


def test_a_worker_that_is_asked_and_answers_is_asked_again(guard: Traced) -> None:
    guard.start("a", "sleep", "600")
    guard.tell({"do": "pulse", "within_s": 5.0})
    assert guard.hear()["on"] == "started"
    for _ in range(3):
        assert guard.hear() == {"on": "ping", "key": ""}
        guard.tell({"do": "alive"})
    guard.tell({"do": "stop", "key": "a", "grace_s": 1.0})
    assert json.dumps(guard.hear()).startswith('{"on": "exited"')
