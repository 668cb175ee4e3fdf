"""No order ends the guard, and none loses a job's end: each against an end at every instant while it is served."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launch_worker.clock import boot_time_s
from launch_worker.ids import new_run_id
from launch_worker.runners.process import tree
from launch_worker.runners.process.exits import read_exits
from tests.conftest import wait_until

ROOT = str(Path(tree.__file__).parents[3])

#: A guard that ends a job itself at the N-th line that it executes after an order that says so: {"at": N, "ends": PID}.
TRACED = """
import json, os, signal, sys
sys.path.insert(0, sys.argv.pop(1))
from launch_worker.clock import boot_time_s
from launch_worker.runners.process import guard

#: What the guard consists of, beside the ways to look at processes and to start them.
FILES = {
    guard.__file__.replace("guard.py", f"{name}.py")
    for name in (
        "guard", "container_leases", "descriptors", "direct_channel", "failsafe", "guarded_job", "job_ends",
        "job_reports", "job_table", "poller", "protocol", "pulse", "worker_link",
    )
}

class Instant:
    def __init__(self, order):
        self.left, self.pid = order.pop("at"), order.pop("ends")

    def __call__(self, frame, event, argument):
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                try:
                    os.kill(self.pid, signal.SIGKILL)
                    os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
                except (ProcessLookupError, ChildProcessError):
                    pass  # the order has ended it
        return self

obey = guard.Guard.obey

def traced(self, line):
    order = json.loads(line)
    if "at" not in order:
        return obey(self, line)
    instant = Instant(order)
    sys.settrace(instant)
    try:
        obey(self, json.dumps(order).encode())
        if self.poller.due <= boot_time_s():
            self.look_around()
    finally:
        sys.settrace(None)
        self.worker.tell("lines", "", left=instant.left)

guard.Guard.obey = traced
guard.main()
"""


class Traced:
    """Such a guard, and the conversation with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.control, theirs = socket.socketpair()
        self.control.settimeout(20.0)
        self.lines = self.control.makefile("rb")
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-S", "-c", TRACED, ROOT, str(theirs.fileno()), "-", "-", ROOT, str(folder)],
                pass_fds=[theirs.fileno()],
                stderr=subprocess.PIPE,
            )
        assert self.hear()["on"] == "hello"

    def start(self, key: str, *argv: str, **more: Any) -> None:
        env = {"PATH": os.environ["PATH"], "LAUNCH_RUN_ID": f"{key}-{new_run_id()}", "LAUNCH_TOKEN": "1"}
        order = {"do": "start", "key": key, "grace_s": 0.5, "argv": argv, "env": env, "cwd": "/", "lease": None}
        folder = str(self.folder / "runs" / key)
        self.tell(order | {"log": str(self.folder / "output"), "folder": folder} | more)

    def tell(self, order: dict[str, Any]) -> None:
        self.control.sendall(json.dumps(order).encode() + b"\n")

    def hear(self) -> dict[str, Any]:
        line = self.lines.readline()
        assert line, "the guard lives"
        return dict(json.loads(line))

    def close(self) -> str:
        """What it printed."""
        self.lines.close()
        self.control.close()
        _, printed = self.process.communicate(timeout=20)
        assert self.process.returncode == 0
        return printed.decode()


@pytest.fixture
def traced(tmp_path: Path) -> Iterator[Traced]:
    made = Traced(tmp_path)
    yield made
    if made.process.poll() is None:
        assert made.close() == ""


#: What is ordered of job `a`; `{NOW}` is the boot time.
ORDERS: dict[str, dict[str, Any]] = {
    "stop": {"do": "stop", "key": "a", "grace_s": 5.0},
    "stop at once": {"do": "stop", "key": "a", "grace_s": 0.0},
    "a lease that is over": {"do": "lease", "leases": {"a": [1.0, 2.0]}},
    "a lease that is renewed": {"do": "lease", "leases": {"a": [9e9, 9e9]}},
    "start of another": {"do": "start"},
    "detach": {"do": "detach"},
}


def _order(name: str, key: str, traced: Traced) -> dict[str, Any]:
    order: dict[str, Any] = json.loads(json.dumps(ORDERS[name]).replace('"a"', f'"{key}"'))
    if order["do"] == "start":
        env = {"PATH": os.environ["PATH"], "LAUNCH_RUN_ID": new_run_id(), "LAUNCH_TOKEN": "1"}
        order |= {"key": "other", "grace_s": 1.0, "argv": ["true"], "env": env, "cwd": "/", "lease": None}
        order |= {"log": str(traced.folder / "output"), "folder": str(traced.folder / "runs" / "other")}
    return order


def _sleeping(guard: int) -> set[int]:
    """Its children that are `sleep`, or were."""
    found = set()
    for pid in tree.children(guard) or ():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text() == "sleep\n":
                found.add(pid)
    return found


@pytest.mark.parametrize("brief_s", [0.0, 60.0], ids=["long", "brief"])
@pytest.mark.parametrize("name", ORDERS)
def test_an_order_against_an_end_at_every_instant(traced: Traced, name: str, brief_s: float) -> None:
    instant, is_behind = 1, False
    former: set[int] = set()
    while not is_behind:
        key = f"a{instant}"
        traced.start(key, "sleep", "600", brief_s=brief_s)
        pid = wait_until(lambda: max(_sleeping(traced.process.pid) - former, default=0), what="it has begun")
        former.add(pid)
        order = _order(name, key, traced)
        traced.tell(order | {"at": instant, "ends": pid})
        heard: dict[str, list[str]] = {"other": [] if order["do"] == "start" else ["gone"]}
        is_served = False
        while not is_served or heard["other"][-1:] != ["gone"] or not {"gone", "ended"} & set(heard.get(key, ())):
            told = traced.hear()
            if told["on"] != "lines":
                heard.setdefault(told["key"], []).append(told["on"])
                continue
            is_served, is_behind = True, told["left"] > 0
            if is_behind:  # the order was served before so many lines: it ends now
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        assert heard[key] in (["started", "exited", "gone"], ["ended"]), f"at line {instant}"
        assert read_exits(str(traced.folder))[key].status in (-signal.SIGKILL, -signal.SIGTERM)
        instant += 3
    assert instant > 5, "it was ended while the order was served"


@pytest.mark.parametrize(
    "garbage", [b"garbage\n", b"[]\n", b"{}\n", b'{"do": "fly"}\n', b'{"do": "stop"}\n', b"\xff\n"]
)
def test_an_order_that_makes_no_sense_ends_no_job(tmp_path: Path, garbage: bytes) -> None:
    guard = Traced(tmp_path)
    guard.start("a", "sleep", "600")
    assert guard.hear()["on"] == "started"
    guard.control.sendall(garbage)
    guard.tell({"do": "stop", "key": "a", "grace_s": 5.0})
    assert [guard.hear()["on"] for _ in range(2)] == ["exited", "gone"]
    assert "guard.failed: an order" in guard.close()


def test_a_job_of_which_something_goes_wrong_is_told_all_the_same(tmp_path: Path) -> None:
    """The guard has no descriptor left to look with when the job ends."""
    import resource

    guard = Traced(tmp_path)
    guard.start("a", "sh", "-c", "(setsid sleep 600 &); exec sleep 600")
    pid = guard.hear()["pid"]
    wait_until(lambda: len(tree.members(tree.look_up(pid).id, marked=(b"X=1",))) > 0)  # type: ignore[union-attr]
    limits = resource.prlimit(guard.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(guard.process.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    os.kill(pid, signal.SIGKILL)
    told = guard.hear()
    assert (told["on"], told["status"]) == ("exited", -signal.SIGKILL)
    assert read_exits(str(tmp_path))["a"][:2] == (-signal.SIGKILL, "")
    resource.prlimit(guard.process.pid, resource.RLIMIT_NOFILE, limits)
    told = guard.hear()
    assert (told["on"], told["key"]) == ("gone", "a")
    guard.close()  # what it printed depends on when it looked


# -- signals that whoever started the worker had blocked or ignored ----------------------------------------------------

_ODD = """
import os, signal, sys
what, program = sys.argv[1:3]
names = ("SIGCHLD", "SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP", "SIGQUIT", "SIGPIPE")
numbers = [getattr(signal, name) for name in names]
if what == "blocked":
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
else:
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
os.execv(program, sys.argv[2:])
"""


def test_a_guard_that_has_no_descriptor_left_does_not_take_an_adopted_job_for_ended(traced: Traced) -> None:
    env = {"PATH": os.environ["PATH"], "LAUNCH_RUN_ID": new_run_id(), "LAUNCH_TOKEN": "1"}
    job = subprocess.Popen(["sleep", "600"], env=env, start_new_session=True)
    found = tree.look_up(job.pid)
    assert found is not None
    guard, limit = traced.process.pid, resource.prlimit(traced.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(guard, resource.RLIMIT_NOFILE, (0, limit[1]))
    order = {"do": "adopt", "key": "a", "env": env, "grace_s": 5.0, "pid": job.pid, "start": found.id.start}
    traced.tell(order | {"lease": None, "stop_grace_s": None, "folder": str(traced.folder / "runs" / "a")})
    traced.start("b", "true")
    assert traced.hear()["on"] == "refused", "it comes after the adopted job, of which nothing is told"
    resource.prlimit(guard, resource.RLIMIT_NOFILE, limit)
    job.kill()
    assert traced.hear()["on"] == "exited"
    job.wait()
    assert traced.hear()["on"] == "gone"


def odd_signals(what: str, *argv: str) -> list[str]:
    """A command that executes another one with signals blocked or ignored, as some supervisors do."""
    return [sys.executable, "-I", "-S", "-c", _ODD, what, *argv]


@pytest.mark.parametrize("what", ["blocked", "ignored"])
def test_a_guard_started_with_signals_blocked_or_ignored_sees_ends_and_its_jobs_have_the_usual_ones(
    tmp_path: Path, what: str
) -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(20.0)
    program = f"import sys; sys.path.insert(0, {ROOT!r}); from launch_worker.runners.process.guard import main; main()"
    with theirs, ours, ours.makefile("rb") as lines:
        guard = subprocess.Popen(
            odd_signals(what, sys.executable, "-S", "-c", program, str(theirs.fileno())), pass_fds=[theirs.fileno()]
        )
        theirs.close()
        assert json.loads(lines.readline())["on"] == "hello"
        env = {"PATH": os.environ["PATH"], "LAUNCH_RUN_ID": new_run_id(), "LAUNCH_TOKEN": "1"}
        order = {"do": "start", "key": "a", "grace_s": 9.0, "env": env, "cwd": "/", "log": str(tmp_path / "output")}
        order |= {"argv": ["grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status"], "lease": None}
        ours.sendall(json.dumps(order).encode() + b"\n")
        assert [json.loads(lines.readline())["on"] for _ in range(3)] == ["started", "exited", "gone"]
        blocked, ignored = (int(line.split()[1], 16) for line in (tmp_path / "output").read_text().splitlines())
        # 32 and 33 are the C library's own.
        assert blocked == 0
        assert ignored & ~(0b11 << 31) == 0
        order |= {"key": "b", "argv": ["sleep", "600"]}
        ours.sendall(json.dumps(order).encode() + b"\n")
        assert json.loads(lines.readline())["on"] == "started"
        begun = boot_time_s()
        ours.sendall(b'{"do": "stop", "key": "b", "grace_s": 9.0}\n')
        told = json.loads(lines.readline())
        assert (told["status"], boot_time_s() - begun < 3) == (-signal.SIGTERM, True), "SIGTERM reaches it"
    assert guard.wait(20) == 0
