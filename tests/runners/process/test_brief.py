"""Jobs that are over at once are told in one message, and nothing is lost or run twice on the way."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launch_worker.clock import boot_time_s
from launch_worker.errors import StartError
from launch_worker.ids import new_run_id
from launch_worker.runners.job import Exited, Gone
from launch_worker.runners.process import direct_channel, guard_link, guard_process, tree
from launch_worker.runners.process.exits import Exit, read_exits
from launch_worker.runners.process.handle import JobHandle
from launch_worker.runners.process.protocol import KNOWS, SOCKET
from launch_worker.runners.process.runner import ProcessRunner
from launch_worker.runners.process.takeover import take_over
from launch_worker.runners.process.tree import ProcessId
from tests.conftest import wait_until
from tests.support.processes import guard_of

#: Longer than any test waits for something else.
LONG_S = 60.0


def environment(folder: Path, token: str = "1") -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HERE": str(folder),
        "LAUNCH_RUN_ID": new_run_id(),
        "LAUNCH_TOKEN": token,
    }


class Bare:
    """A guard, and the conversation with it as its worker sees it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.control, theirs = socket.socketpair()
        self.control.settimeout(20.0)
        self.lines = self.control.makefile("rb")
        (folder / "lock").touch()
        self.lock_fd = os.open(folder / "lock", os.O_RDWR)
        root = str(Path(tree.__file__).parents[3])
        program = (
            f"import sys; sys.path.insert(0, {root!r}); from launch_worker.runners.process.guard import main; main()"
        )
        with theirs, socket.socket(socket.AF_UNIX) as door:
            here = os.open(folder, os.O_RDONLY)
            door.bind(f"/proc/self/fd/{here}/{SOCKET}")
            os.close(here)
            door.listen(4)
            fds = [theirs.fileno(), door.fileno(), self.lock_fd]
            self.process = subprocess.Popen(
                [sys.executable, "-S", "-c", program, *map(str, fds), root, str(folder)], pass_fds=fds, cwd="/"
            )
        assert self.hear() == {"on": "hello", "key": "", "knows": list(KNOWS)}
        self.envs: dict[str, dict[str, str]] = {}

    def start(self, key: str, script: str, **options: Any) -> Path:
        """Order a job; returns its attempt's folder."""
        attempt = self.folder / "runs" / f"attempt-{key}"
        attempt.mkdir(parents=True)
        self.envs[key] = environment(self.folder)
        order = {"do": "start", "key": key, "grace_s": 5.0, "argv": ["sh", "-c", script], "env": self.envs[key]}
        order |= {"cwd": str(self.folder), "log": str(attempt / "output"), "folder": str(attempt), "lease": None}
        self.tell(order | options)
        return attempt

    def tell(self, order: dict[str, Any]) -> None:
        self.control.sendall(json.dumps(order).encode() + b"\n")

    def hear(self) -> Any:
        return json.loads(self.lines.readline())

    def hear_all(self, count: int) -> list[tuple[str, str]]:
        return [(told["on"], told["key"]) for told in (self.hear() for _ in range(count))]

    def wait_for_end_of(self, key: str) -> None:
        """Its main process has ended, whatever the guard knows of it."""

        def is_over() -> bool:
            found = tree.members(None, marked=tree.marks(self.envs[key]), spare=[self.process.pid])
            return not found and (self.folder / f"began-{key}").exists()

        wait_until(is_over, what="the job has ended")

    def freeze(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)
        wait_until(lambda: state_of(self.process.pid) == "T", what="the guard is frozen")

    def thaw(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)

    def leave(self) -> None:
        """As a worker that leaves its only job, "a", to the next one."""
        self.tell({"do": "detach"})
        assert self.hear_all(1) == [("started", "a")]
        self.control.shutdown(socket.SHUT_WR)
        assert self.lines.readline() == b""

    def hang_up(self) -> None:
        self.lines.close()
        self.control.close()

    def close(self) -> None:
        self.thaw()
        self.hang_up()
        self.process.wait(20)
        os.close(self.lock_fd)


def kept(attempt: Path) -> Exit | None:
    """What is in the file of the exits."""
    found = read_exits(str(attempt.parent.parent)).get(attempt.name)
    return None if found is None else found._replace(at=0.0, used=None)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def lives(pid: int) -> bool:
    found = tree.look_up(pid)
    return found is not None and not found.zombie


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Bare]:
    made = Bare(tmp_path)
    yield made
    made.close()


class Brief:
    """Starts brief jobs through the runner."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runner = ProcessRunner(folder=folder).open()
        wait_until(lambda: self.runner.guard.knows, what="the guard has said hello")
        self.envs: list[dict[str, str]] = []

    def start(self, *argv: str, brief_s: float = LONG_S, token: str = "1", timeout_s: float = 20.0) -> JobHandle:
        env = environment(self.folder, token)
        self.envs.append(env)
        return self.runner.start(
            argv,
            key=env["LAUNCH_RUN_ID"],
            env=env,
            cwd=self.folder,
            log_path=self.folder / "output",
            grace_s=10.0,
            lease=None,
            events=queue.SimpleQueue(),
            timeout_s=timeout_s,
            brief_s=brief_s,
        )

    def shell(self, script: str, **options: Any) -> JobHandle:
        return self.start("bash", "-c", script, **options)

    def begin(self, script: str, **options: Any) -> Callable[[], JobHandle]:
        """Start it in a thread, for `start` waits for a brief job's end; returns what waits for its return."""
        done: queue.SimpleQueue[JobHandle | StartError] = queue.SimpleQueue()

        def start() -> None:
            try:
                done.put(self.shell(script, **options))
            except StartError as error:
                done.put(error)

        threading.Thread(target=start, daemon=True).start()

        def result() -> JobHandle:
            got = done.get(timeout=20.0)
            assert isinstance(got, JobHandle), got
            return got

        return result

    def wait_for(self, name: str) -> None:
        wait_until((self.folder / name).exists, what=f"{name} is made")

    def kill_guard(self) -> None:
        os.kill(guard_of(self.runner), signal.SIGKILL)

    def close(self) -> None:
        self.runner.close()
        for env in self.envs:
            assert wait_until(lambda env=env: not tree.members(None, marked=tree.marks(env)), what="all jobs ended")  # type: ignore[misc]


@pytest.fixture
def brief(tmp_path: Path) -> Iterator[Brief]:
    made = Brief(tmp_path)
    yield made
    made.close()


def end_of(handle: JobHandle) -> Exited:
    exited = handle.events.get(timeout=20.0)
    assert isinstance(exited, Exited)
    assert handle.events.get(timeout=20.0) == Gone()
    assert handle.events.empty()
    return exited


# -- what is told ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", -9), ("kill -11 $$", -11)])
def test_a_brief_jobs_end_is_there_when_its_start_returns(brief: Brief, script: str, status: int) -> None:
    handle = brief.shell(f"ulimit -c 0; echo $$ > pid; {script}")
    assert handle.events.qsize() == 2
    assert handle.exited == Exited(status, "")
    assert handle.exited.is_kept
    assert end_of(handle) == Exited(status, "")
    assert handle.pid == int((brief.folder / "pid").read_text())
    assert brief.runner.is_idle


def test_it_is_told_in_one_message(bare: Bare) -> None:
    bare.start("a", "exit 4", brief_s=LONG_S)
    told = bare.hear()
    assert told.pop("used")[0] > 0
    ended = {"status": 4, "stopped_by": "", "kept": True, "oom": False}
    assert {**told, "pid": 0} == {"on": "ended", "key": "a", "pid": 0, **ended}
    bare.start("b", "exit 5", brief_s=LONG_S)
    assert bare.hear()["key"] == "b"


def test_an_order_of_an_older_worker_is_told_as_ever(bare: Bare) -> None:
    bare.start("a", "exit 4")
    assert bare.hear_all(3) == [("started", "a"), ("exited", "a"), ("gone", "a")]


def test_a_job_that_lasts_is_told_started_when_it_is_no_longer_brief(brief: Brief) -> None:
    begun = time.monotonic()
    handle = brief.start("sleep", "600", brief_s=0.3)
    took_s = time.monotonic() - begun
    assert 0.3 <= took_s < 15.0, "and not when it ends"
    assert handle.events.empty()
    assert tree.is_alive(handle.main) if handle.main else False
    handle.stop(grace_s=5.0)
    assert end_of(handle) == Exited(-signal.SIGTERM, "asked")


def test_one_that_lasts_does_not_hold_up_those_that_do_not(brief: Brief) -> None:
    results = [brief.begin("echo > lasts; until [ -e end ]; do sleep 0.05; done; exit 9")]
    brief.wait_for("lasts")
    assert [end_of(brief.shell(f"exit {number}")).status for number in range(5)] == list(range(5))
    (brief.folder / "end").touch()
    assert end_of(results[0]()) == Exited(9, "")


def test_many_brief_jobs_at_once_are_each_told_their_own_end(brief: Brief) -> None:
    results = [brief.begin(f"exit {number}") for number in range(40)]
    assert [end_of(result()).status for result in results] == list(range(40))


def test_a_command_that_does_not_exist_is_refused(brief: Brief) -> None:
    with pytest.raises(StartError, match="'no-such-command' was not found"):
        brief.start("no-such-command")
    assert end_of(brief.start("true")) == Exited(0, "")


def test_what_a_brief_job_leaves_behind_is_ended_before_it_is_gone(brief: Brief) -> None:
    handle = brief.shell("setsid bash -c 'echo $$ > pid; exec sleep 600' & while [ ! -s pid ]; do :; done; exit 3")
    left = int((brief.folder / "pid").read_text())
    assert end_of(handle) == Exited(3, "")
    assert not lives(left)


def test_a_zombie_that_came_to_the_guard_holds_nothing_up(bare: Bare) -> None:
    """What a job left behind had ended before it."""
    bare.start("a", "(setsid sh -c 'exit 0' &) ; sleep 0.1; exit 3", brief_s=LONG_S)
    assert bare.hear()["on"] == "ended"


def test_a_guard_of_an_older_release_gets_no_order_that_it_does_not_know(tmp_path: Path) -> None:
    """After a downgrade in place; it says no hello."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(20.0)
    runner = ProcessRunner(control=ours).open()
    done: queue.SimpleQueue[JobHandle] = queue.SimpleQueue()
    env = environment(tmp_path)

    def start() -> None:
        done.put(
            runner.start(
                ["true"],
                key="a",
                env=env,
                cwd=tmp_path,
                log_path=tmp_path / "output",
                grace_s=1.0,
                lease=None,
                events=queue.SimpleQueue(),
                timeout_s=20.0,
                brief_s=1.0,
            )
        )

    threading.Thread(target=start, daemon=True).start()
    with theirs:
        order = json.loads(theirs.makefile("rb").readline())
        assert "brief_s" not in order
        for told in ({"on": "started", "pid": 1, "start": 2}, {"on": "exited", "status": 6, "stopped_by": ""}):
            theirs.sendall(json.dumps(told | {"key": "a"}).encode() + b"\n")
        theirs.sendall(b'{"on": "gone", "key": "a"}\n')
        handle = done.get(timeout=20.0)
        assert handle.main == ProcessId(1, 2)
        assert end_of(handle) == Exited(6, "")
        runner.guard._is_closing = True
    runner.close()


def test_more_threads_than_there_are_lanes_go_the_long_way(brief: Brief, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_link, "_MAX_CHANNELS", 3)
    results = [brief.begin(f"exit {number}") for number in range(20)]
    assert [end_of(result()).status for result in results] == list(range(20))
    assert brief.runner.guard.num_channels == len(brief.runner.guard.channels) == 3


@pytest.mark.parametrize("brief_s", [0.0, LONG_S])
def test_an_order_that_fits_into_no_buffer_arrives(brief: Brief, brief_s: float) -> None:
    words = ["x" * 120_000] * 8
    handle = brief.start("sh", "-c", 'echo "$#" "${#8}" > said', "sh", *words, brief_s=brief_s)
    assert end_of(handle) == Exited(0, "")
    assert (brief.folder / "said").read_text() == "8 120000\n"


def test_a_guard_that_does_not_read_such_an_order_is_replaced(brief: Brief, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its exec hangs on a dead mount: the other jobs' heartbeats must not wait for it."""
    monkeypatch.setattr(direct_channel, "SEND_TIMEOUT_S", 1)
    monkeypatch.setattr(guard_process, "SEND_TIMEOUT_S", 1)
    os.kill(guard_of(brief.runner), signal.SIGSTOP)
    handle = brief.start("sh", "-c", 'echo "$#" >> said; exit 3', "sh", *["x" * 120_000] * 8)
    assert end_of(handle) == Exited(3, "")
    assert (brief.folder / "said").read_text() == "8\n"


def test_a_guard_without_room_for_a_lane_is_replaced(brief: Brief) -> None:
    """It has as many open files as it may."""
    resource.prlimit(guard_of(brief.runner), resource.RLIMIT_NOFILE, (3, 3))
    handle = brief.shell("echo >> said; exit 3")
    assert end_of(handle) == Exited(3, "")
    assert (brief.folder / "said").read_text() == "\n"


def test_no_descriptor_but_the_three_is_inherited(brief: Brief) -> None:
    results = [brief.begin("ls /proc/$$/fd > fds-$$; sleep 0.1") for _ in range(4)]
    assert [end_of(result()).status for result in results] == [0] * 4
    for path in brief.folder.glob("fds-*"):
        assert set(path.read_text().split()) <= {"0", "1", "2", "255"}, "255 is bash's own"


def test_descriptors_do_not_pile_up(brief: Brief) -> None:
    def descriptors(pid: int | str) -> int:
        return len(os.listdir(f"/proc/{pid}/fd"))

    def use() -> tuple[int, int]:
        for result in [brief.begin("exit 0") for _ in range(4)]:
            assert end_of(result()).status == 0
        with pytest.raises(StartError):
            brief.start("no-such-command")
        return descriptors("self"), descriptors(guard_of(brief.runner))

    before = use()
    for _ in range(3):
        pid = guard_of(brief.runner)
        brief.kill_guard()
        wait_until(lambda pid=pid: guard_of(brief.runner) != pid and brief.runner.guard.knows)  # type: ignore[misc]
        after = use()
    # There may be fewer lanes: jobs that came one after another.
    assert after[0] <= before[0] + 3
    assert after[1] <= before[1] + 3


# -- what comes in between ---------------------------------------------------------------------------------------------


def test_a_stop_meanwhile_ends_it_as_any_other(bare: Bare) -> None:
    bare.start("a", "touch ready; exec sleep 600", brief_s=LONG_S)
    wait_until((bare.folder / "ready").exists)
    bare.tell({"do": "stop", "key": "a", "grace_s": 5.0})
    told = [bare.hear() for _ in range(3)]
    assert [event["on"] for event in told] == ["started", "exited", "gone"]
    assert (told[1]["status"], told[1]["stopped_by"]) == (-signal.SIGTERM, "asked")


def test_one_that_had_ended_before_the_stop_keeps_its_own_end(bare: Bare) -> None:
    """P25."""
    attempt = bare.start("a", "touch began-a; while [ ! -e go ]; do :; done; exit 3", brief_s=LONG_S)
    wait_until((bare.folder / "began-a").exists)
    bare.freeze()
    (bare.folder / "go").touch()
    bare.wait_for_end_of("a")
    bare.tell({"do": "stop", "key": "a", "grace_s": 0.0})
    bare.thaw()
    told = bare.hear()
    assert (told["on"], told["status"], told["stopped_by"]) == ("ended", 3, "")
    bare.hang_up()
    bare.process.wait(20)
    assert kept(attempt) == Exit(3, "")


def test_its_lease_binds_it_meanwhile(bare: Bare) -> None:
    now = boot_time_s()
    bare.start("a", "trap '' TERM; while :; do sleep 0.05; done", brief_s=LONG_S, lease=[now + 2.0, now + 2.5])
    told = [bare.hear() for _ in range(3)]
    assert [event["on"] for event in told] == ["started", "exited", "gone"]
    assert told[1]["stopped_by"] == "lease"
    assert now + 2.5 <= boot_time_s() < now + 15.0


def test_a_renewed_lease_counts_meanwhile(bare: Bare) -> None:
    now = boot_time_s()
    bare.start("a", "sleep 4; exit 5", brief_s=LONG_S, lease=[now + 3.0, now + 3.1])
    bare.tell({"do": "lease", "leases": {"a": [now + 60, now + 61]}})
    assert bare.hear()["status"] == 5


@pytest.mark.parametrize("timeout_s", [0, 0.2])
def test_a_start_that_took_too_long_ends_its_job(brief: Brief, timeout_s: float) -> None:
    guard = guard_of(brief.runner)
    assert end_of(brief.start("true")).status == 0
    os.kill(guard, signal.SIGSTOP)
    with pytest.raises(StartError, match="did not start within"):
        brief.start("sleep", "600", timeout_s=timeout_s)
    os.kill(guard, signal.SIGCONT)
    wait_until(lambda: brief.runner.is_idle, what="the job has been ended")
    assert not tree.members(None, marked=tree.marks(brief.envs[-1]))
    assert end_of(brief.start("true")).status == 0
    assert guard_of(brief.runner) == guard


def test_one_that_was_over_when_it_had_taken_too_long_is_forgotten(brief: Brief) -> None:
    with pytest.raises(StartError, match="did not start within"):
        brief.start("sleep", "0.5", timeout_s=0.1)
    wait_until(lambda: brief.runner.is_idle, what="the guard has told its end elsewhere")


def test_a_lane_hears_what_was_told_at_the_last_moment_and_lets_nothing_be_told_after_that() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"last\n")
        ours.shutdown(socket.SHUT_RD)
        assert ours.recv(100) == b"last\n"
        assert ours.recv(100) == b""
        with pytest.raises(BrokenPipeError):
            theirs.send(b"later\n")


# -- a guard that dies -------------------------------------------------------------------------------------------------


def test_a_guard_that_dies_before_it_told_of_a_job_leaves_it_running_once(brief: Brief) -> None:
    result = brief.begin("echo begun >> times; while [ ! -e go ]; do sleep 0.01; done; exit 7")
    brief.wait_for("times")
    brief.kill_guard()
    handle = result()
    assert tree.is_alive(handle.main) if handle.main else False
    (brief.folder / "go").touch()
    assert end_of(handle) == Exited(7, "")
    assert (brief.folder / "times").read_text() == "begun\n"


@pytest.mark.parametrize(
    "leaves", ["", "setsid bash -c 'echo $$ > left; exec sleep 600' & while [ ! -s left ]; do :; done;"]
)
def test_a_job_that_ended_of_which_the_dying_guard_could_not_tell_does_not_run_again(brief: Brief, leaves: str) -> None:
    result = brief.begin(f"echo begun >> times; {leaves} touch up; while [ ! -e go ]; do sleep 0.01; done; exit 7")
    brief.wait_for("up")
    guard = guard_of(brief.runner)
    os.kill(guard, signal.SIGSTOP)
    wait_until(lambda: state_of(guard) == "T")
    (brief.folder / "go").touch()
    main = wait_until(lambda: next((p for p in tree.table() if p.ppid == guard and p.zombie), None), what="it ended")
    brief.kill_guard()
    handle = result()
    assert handle.pid == main.id.pid
    assert end_of(handle) == Exited(7, "")
    assert (brief.folder / "times").read_text() == "begun\n"
    if leaves:
        assert not lives(int((brief.folder / "left").read_text()))
    assert end_of(brief.shell("exit 5")) == Exited(5, "")


def test_a_start_that_the_dying_guard_had_not_read_is_made_by_the_next_one(brief: Brief) -> None:
    guard = guard_of(brief.runner)
    os.kill(guard, signal.SIGSTOP)
    wait_until(lambda: state_of(guard) == "T")
    result = brief.begin("echo begun >> times; exit 7")
    wait_until(lambda: brief.runner._handles)
    brief.kill_guard()
    assert end_of(result()) == Exited(7, "")
    assert (brief.folder / "times").read_text() == "begun\n"


def test_guards_that_die_all_the_time_lose_no_job_and_run_none_twice(brief: Brief) -> None:
    done = threading.Event()
    ended: list[Exited] = []

    def kill() -> None:
        pause_s, seen = 0.1, 0
        while not done.is_set():
            # One that is slow to start on a busy machine has done nothing yet.
            wait_until(lambda: brief.runner.guard.knows or done.is_set(), what="the next guard has said hello")
            done.wait(pause_s)
            pause_s, seen = (0.1 if seen < len(ended) else 1.5 * pause_s), len(ended)
            with contextlib.suppress(ProcessLookupError):  # it is just being replaced
                brief.kill_guard()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        for round_ in range(12):
            results = [
                brief.begin(f"echo >> {round_}-{number}; exit {number}", brief_s=0.02, token=str(number))
                for number in range(5)
            ]
            for number, result in enumerate(results):
                exited = result().events.get(timeout=20.0)
                ended.append(exited)
                assert exited.status in (number, None), "lost at worst, never wrong"
                assert (brief.folder / f"{round_}-{number}").read_text() == "\n"
    finally:
        done.set()
        killer.join()
    assert end_of(brief.shell("exit 5")) == Exited(5, "")


# -- a worker that dies or leaves --------------------------------------------------------------------------------------


def test_a_worker_that_dies_before_it_reported_finds_the_statuses_on_disk(bare: Bare) -> None:
    attempts = [bare.start(str(number), f"exit {number}", brief_s=LONG_S) for number in range(8)]
    assert {bare.hear()["on"] for _ in attempts} == {"ended"}
    bare.hang_up()
    assert bare.process.wait(20) == 0
    assert [kept(attempt) for attempt in attempts] == [Exit(number, "") for number in range(8)]


WORKER = """
import json, os, queue, signal, sys, time
from pathlib import Path
from launch_worker.runners.process.runner import ProcessRunner

env, folder = json.loads(sys.argv[1])
runner = ProcessRunner(folder=Path(folder)).open()
while not runner.guard.knows:
    time.sleep(0.01)
for number in range(5):
    attempt = Path(folder, "runs", str(number))
    attempt.mkdir(parents=True)
    handle = runner.start(
        ["sh", "-c", f"exit {number}"], key=str(number), env=env | {"LAUNCH_TOKEN": str(number)}, cwd=folder,
        log_path=attempt / "output", grace_s=60.0, lease=None, events=queue.SimpleQueue(), timeout_s=20.0, brief_s=9.0,
    )
    assert handle.events.qsize() == 2
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_worker_leaves_the_statuses_of_all_that_it_had_not_reported(tmp_path: Path) -> None:
    order = json.dumps([environment(tmp_path), str(tmp_path)])
    assert subprocess.run([sys.executable, "-c", WORKER, order], timeout=60).returncode == -signal.SIGKILL
    for number in range(5):
        assert kept(tmp_path / "runs" / str(number)) == Exit(number, "")


def test_a_worker_and_its_guard_killed_at_once_leave_the_statuses_of_jobs_that_had_ended(bare: Bare) -> None:
    attempts = [bare.start(str(number), f"exit {number}", brief_s=LONG_S) for number in range(8)]
    assert {bare.hear()["on"] for _ in attempts} == {"ended"}
    bare.process.kill()
    bare.process.wait(20)
    assert [kept(attempt) for attempt in attempts] == [Exit(number, "") for number in range(8)]


def test_what_was_stopped_on_purpose_is_not_taken_for_an_end_of_its_own(bare: Bare) -> None:
    attempt = bare.start("a", "exec sleep 600")
    assert bare.hear()["on"] == "started"
    bare.tell({"do": "stop", "key": "a", "grace_s": 5.0})
    assert bare.hear_all(2) == [("exited", "a"), ("gone", "a")]
    assert kept(attempt) == Exit(-signal.SIGTERM, "asked")


def test_the_statuses_of_very_many_unreported_jobs_are_kept_and_those_of_reported_ones_forgotten(
    bare: Bare,
) -> None:
    """More than are remembered without a look at which were reported."""
    attempts = []
    for number in range(1100):
        attempts.append(bare.start(str(number), "exit 3", brief_s=LONG_S, argv=["false"]))
        assert bare.hear()["on"] == "ended"
        if number % 2:
            attempts[-1].rmdir()
    bare.hang_up()
    assert bare.process.wait(20) == 0
    exits = read_exits(str(bare.folder))
    assert [exits[attempt.name].status for attempt in attempts[::2]] == [1] * 550


def test_a_worker_that_leaves_is_told_of_every_job_first(bare: Bare) -> None:
    attempt = bare.start("a", "touch began-a; while [ ! -e go ]; do sleep 0.01; done; exit 6", brief_s=LONG_S)
    wait_until((bare.folder / "began-a").exists)
    bare.leave()
    (bare.folder / "go").touch()
    wait_until(lambda: kept(attempt))
    assert kept(attempt) == Exit(6, "")


@pytest.mark.parametrize("order", ["before", "after"])
def test_a_brief_job_that_ends_right_when_its_worker_leaves_is_not_lost(bare: Bare, order: str) -> None:
    """Its end lies in front of the guard together with the worker's leaving."""
    attempt = bare.start("a", "touch began-a; while [ ! -e go ]; do :; done; exit 6", brief_s=LONG_S)
    wait_until((bare.folder / "began-a").exists)
    bare.freeze()
    if order == "after":
        bare.tell({"do": "detach"})
        bare.control.shutdown(socket.SHUT_WR)
    (bare.folder / "go").touch()
    bare.wait_for_end_of("a")
    if order == "before":
        bare.tell({"do": "detach"})
        bare.control.shutdown(socket.SHUT_WR)
    bare.thaw()
    assert bare.process.wait(20) == 0
    assert kept(attempt) == Exit(6, "")


@pytest.mark.parametrize("ends", ["before it is asked", "after it was asked", "after the answer"])
def test_a_job_that_ends_while_it_is_handed_over_is_heard_of(bare: Bare, ends: str) -> None:
    attempt = bare.start("a", "touch began-a; while [ ! -e go ]; do :; done; exit 6", brief_s=LONG_S)
    wait_until((bare.folder / "began-a").exists)
    bare.leave()

    def end() -> None:
        (bare.folder / "go").touch()
        bare.wait_for_end_of("a")

    bare.freeze()
    taken: queue.SimpleQueue[Any] = queue.SimpleQueue()
    if ends == "before it is asked":
        end()
    asking = threading.Thread(target=lambda: taken.put(take_over(bare.folder)))
    asking.start()
    wait_until(lambda: _is_asked(bare), what="it knocked")
    if ends == "after it was asked":
        end()
    bare.thaw()
    took = taken.get(timeout=20.0)
    if took is not None:
        runner, jobs, lock_fd = took
        if ends == "after the answer":
            end()
        if jobs:
            handle = runner.claim(jobs[0], env=bare.envs["a"], grace_s=5.0, events=queue.SimpleQueue())
            runner.open()
            assert end_of(handle) == Exited(6, "")
        else:
            runner.open()
        runner.close()
        os.close(lock_fd)
    if took is None or not jobs:
        wait_until(lambda: kept(attempt), what="the status is on disk")
        assert kept(attempt) == Exit(6, "")


def _is_asked(bare: Bare) -> bool:
    """Whether somebody has knocked at the frozen guard's door."""
    held = [line.split() for line in Path("/proc/net/unix").read_text().splitlines() if line.endswith(SOCKET)]
    return len(held) > 1
