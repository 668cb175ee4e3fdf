"""Orders in any sequence to a real guard: each job is told once and truly, and nothing of it is left.

Two machines: one speaks the guard's protocol itself, the other is a ProcessRunner whose guards are killed. The jobs are
real processes. More examples: LAUNCH_FUZZ_EXAMPLES=200.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from launch_worker.clock import boot_time_s
from launch_worker.errors import StartError
from launch_worker.ids import new_run_id
from launch_worker.runners.job import Exited, Gone
from launch_worker.runners.output import make_pipe
from launch_worker.runners.process import guard_process, oom, tree
from launch_worker.runners.process.exits import read_exits
from launch_worker.runners.process.handle import JobHandle
from launch_worker.runners.process.runner import ProcessRunner, reap_orphans
from launch_worker.runners.process.takeover import take_over
from tests.runners.process.test_chains import CHAIN
from tests.support.processes import guard_of
from tests.support.scripted_engine import ScriptedEngine, settle

_EXAMPLES = int(os.environ.get("LAUNCH_FUZZ_EXAMPLES", "6"))
_STEPS = 14
#: By when all must have ended that was stopped, or ends by itself.
_END_S = 30.0
ROOT = str(Path(tree.__file__).parents[3])


@dataclass(frozen=True)
class Kind:
    """A sort of job."""

    script: str
    #: How it ends by itself; None: not before it is stopped.
    status: int | None = None
    #: All that it prints.
    printed: bytes = b""
    #: How it may end, besides, when it gets SIGTERM.
    heeds: int | None = None


_STAYS = "while :; do sleep 0.05; done"
_DEAF = f'trap "" TERM; {_STAYS}'
_PYTHON = f"{sys.executable} -I -S -c"
KINDS = {
    "ends at once": Kind("exit 0", 0),
    "fails": Kind("exit 3", 3),
    "fails as if by a signal": Kind("exit 143", 143),
    "ends soon": Kind("sleep 0.15; echo done; exit 7", 7, b"done\n"),
    "kills itself": Kind("echo dies; kill -KILL $$", -signal.SIGKILL, b"dies\n"),
    "ends its group": Kind("sleep 60 & sleep 60 & kill -TERM 0; sleep 60", -signal.SIGTERM),
    "kills its group": Kind("sleep 60 & sleep 60 & kill -KILL 0", -signal.SIGKILL),
    "stops itself": Kind("kill -STOP $$; sleep 600"),
    "sleeps": Kind("exec sleep 600"),
    "ignores SIGTERM": Kind(f"trap '' TERM; {_STAYS}"),
    "heeds SIGTERM": Kind(f"trap 'exit 6' TERM; {_STAYS}", heeds=6),
    "prints": Kind("seq 1 5000; exit 9", 9, b"".join(b"%d\n" % n for n in range(1, 5001))),
    "floods": Kind("yes 012345678 | head -c 3000000; exit 0", 0, b"012345678\n" * 300_000),
    "prints and says so": Kind("n=0; while :; do n=$((n+1)); echo $n; echo $n >> said; sleep 0.01; done"),
    "closes its outputs": Kind("exec >&- 2>&-; sleep 0.1; exit 8", 8),
    "forks": Kind("for n in 1 2 3 4 5 6; do sleep 60 & done; echo forked; exit 2", 2, b"forked\n"),
    "leaves one that ends soon": Kind("(sleep 0.1 &); (sleep 0.01 &); exit 0", 0),
    "leaves one that prints": Kind("(sleep 60; echo never) & echo now; exit 0", 0, b"now\n"),
    "double-forks": Kind(f"(setsid sh -c '{_DEAF}' &); exit 5", 5),
    "daemonises": Kind(f"(env -i PATH=\"$PATH\" setsid sh -c '{_DEAF}' &); exit 5", 5),
    "is a parent of daemons": Kind(f"(env -i PATH=\"$PATH\" setsid sh -c '{_DEAF}' &); {_STAYS}"),
    "leaves a chain": Kind(f"{_PYTHON} '{CHAIN}' 0.002 ignores goes; exit 0", 0),
    "has a chain": Kind(f"exec {_PYTHON} '{CHAIN}' 0 ignores stays"),
    "is a quick chain": Kind(f"exec {_PYTHON} '{CHAIN}' 0 heeds goes", 0),
}
#: What cannot be started.
REFUSED: dict[str, dict[str, Any]] = {
    "no program": {"argv": ["no-such-program-at-all"]},
    "no folder": {"cwd": "/no/such/folder"},
    "a zero byte": {"argv": ["sh", "a\0b"]},
    "no arguments": {"argv": []},
    "no marks": {"env": {"PATH": os.environ["PATH"]}},
}
_kinds = st.sampled_from(sorted(KINDS))
_any = st.integers(0, 1000)
_graces = st.sampled_from([0.0, 0.0, 0.05, 0.3, 60.0])
#: From now until SIGTERM, and from then until SIGKILL.
_leases = st.sampled_from([None, None, (-1.0, 0.5), (0.0, 0.0), (0.1, 0.1), (0.3, 60.0), (30.0, 1.0)])
#: What a brief job prints is moved at its end only: one that prints much is held up for so long.
_brief = st.sampled_from([0.0, 0.02, 0.2, 0.5])
_moments = st.sampled_from([0.0, 0.0, 0.01, 0.05, 0.2])


@dataclass(eq=False)
class Job:
    """What is known of one ordered job."""

    key: str
    kind: Kind
    folder: Path
    env: dict[str, str]
    #: The guard must refuse it.
    is_refused: bool = False
    pipe: int = -1
    #: What was told of it, in the order of its telling.
    told: list[dict[str, Any]] = field(default_factory=list)
    #: The shortest grace of the stops that were ordered; None for none.
    grace_s: float | None = None
    #: Every lease that it had.
    leases: list[tuple[float, float] | None] = field(default_factory=list)
    #: A worker went away while it ran, and did not leave it to another one.
    was_dropped: bool = False
    #: Nothing more is told: it ended while there was no worker, or its order was never read.
    is_over: bool = False
    handle: JobHandle | None = None
    #: It came to this process as its guard was killed.
    may_be_adopted: bool = False
    #: A worker left it to the next one.
    was_left: bool = False
    told_at: float = 0.0
    refusal: str = ""
    events: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)

    @classmethod
    def make(cls, base: Path, kind: Kind) -> Job:
        key = new_run_id()
        folder = base / "runs" / f"{key}.1"
        folder.mkdir(parents=True)
        return cls(key, kind, folder, {"PATH": os.environ["PATH"], "LAUNCH_RUN_ID": key, "LAUNCH_TOKEN": "1"})

    def order(self, lease: tuple[float, float] | None, **more: Any) -> dict[str, Any]:
        self.leases.append(lease)
        order = {"do": "start", "key": self.key, "grace_s": 0.3, "argv": ["sh", "-c", self.script], "env": self.env}
        order |= {"cwd": str(self.folder), "log": str(self.log), "folder": str(self.folder), "lease": lease}
        return order | more

    @property
    def script(self) -> str:
        return f"echo $$ >> began; {self.kind.script}"

    @property
    def log(self) -> Path:
        return self.folder / "output"

    @property
    def began(self) -> int:
        """How many times."""
        path = self.folder / "began"
        return len(path.read_bytes().splitlines()) if path.exists() else 0

    @property
    def is_told(self) -> bool:
        return self.is_over or (bool(self.told) and self.told[-1]["on"] in ("refused", "ended", "gone"))

    @property
    def must_end(self) -> bool:
        """Whether it ends soon without anything more that is done to it."""
        now, lease = boot_time_s(), self.leases[-1]
        is_let_go = lease is not None and lease[1] < now + 10
        if self.is_refused or is_let_go or (self.grace_s is not None and self.grace_s < 10):
            return True
        # The processes that it leaves behind have the whole grace of a stop that came before its own end.
        has_grace = self.grace_s is not None or any(each and each[0] <= now and each[1] > now for each in self.leases)
        return self.kind.status is not None and not has_grace

    def hear(self, told: dict[str, Any], *, guard_pid: int) -> None:
        self.told.append(told)
        words = [each["on"] for each in self.told]
        assert words in (
            ["refused"],
            ["ended"],
            ["started"],
            ["started", "exited"],
            ["started", "exited", "gone"],
        ), (self, words)
        if told["on"] == "refused" and any(lease and lease[0] <= boot_time_s() for lease in self.leases):
            self.is_refused = True  # its lease was over before the guard came upon the order
        assert (told["on"] == "refused") == self.is_refused, self
        if told["on"] in ("exited", "ended"):
            self.check_status(told["status"], told["stopped_by"], is_kept=told["kept"])
        if told["on"] in ("gone", "ended"):
            self.told_at = boot_time_s()
            assert "disk_full" not in told, self
            self.check_nothing_lives(guard_pid)
            self.check_output()

    def check_status(self, status: int | None, stopped_by: str, *, is_kept: bool | None = None) -> None:
        """That it is a true one."""
        what = (self, status, stopped_by)
        if status is None:
            # Its parent was the worker that left.
            assert self.may_be_adopted, what
            assert self.was_left, what
            return
        if stopped_by == "":
            assert self.kind.status is not None, what
            assert status == self.kind.status, what
        else:
            own = {self.kind.status, self.kind.heeds} - {None}
            assert status in {-signal.SIGTERM, -signal.SIGKILL} | own, what
        assert stopped_by != "asked" or self.grace_s is not None, what
        assert stopped_by != "lease" or any(lease and lease[0] <= boot_time_s() for lease in self.leases), what
        assert stopped_by != "worker" or self.was_dropped, what
        if is_kept:
            found = read_exits(str(self.folder.parent.parent)).get(self.folder.name)
            assert found is not None, what
            assert found[:2] == (status, stopped_by), (what, found)

    def check_nothing_lives(self, guard_pid: int) -> None:
        left = tree.members(None, marked=tree.marks(self.env | {"LAUNCH_RUN_ID": self.key}), spare=[guard_pid])
        assert left == [], (self, [_describe(each.pid) for each in left])

    def check_output(self) -> None:
        """That what it printed is there, all and once."""
        printed = self.log.read_bytes() if self.log.exists() else b""
        ended = [each for each in self.told if "status" in each]
        if self.kind is KINDS["prints and says so"]:
            said = self.folder / "said"
            count = len(said.read_bytes().splitlines()) if said.exists() else 0
            lines = printed.splitlines()
            assert len(lines) in (count, count + 1), (self, count, len(lines))
            assert lines == [b"%d" % (n + 1) for n in range(len(lines))], self
        elif ended and ended[0]["stopped_by"]:
            # A shell may say that a program of its was terminated.
            assert self.kind.printed.startswith(printed) or len(self.kind.printed) < 10, (self, printed[-100:])
        else:
            assert printed == self.kind.printed, (self, printed[:100], len(printed))

    def check_end(self, guard_pid: int) -> None:
        """After all is over."""
        self.check_nothing_lives(guard_pid)
        assert self.began <= 1, self
        assert not self.is_refused or not self.began, self
        stamp = self.folder / "stamp"
        text = stamp.read_text() if stamp.exists() else ""
        assert not text or not self.told_at or float(text) <= self.told_at, self

    def check_kept(self) -> None:
        """Nobody was told of its end: it must be in the file of the exits, if it ever began."""
        found = read_exits(str(self.folder.parent.parent)).get(self.folder.name)
        if found is None:
            assert not self.began, self
            assert not self.told, self
        else:
            self.check_status(found.status, found.stopped_by)


def _describe(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode().replace("\0", " ")[-200:]
    return "?"


def _until(lease: tuple[float, float] | None) -> tuple[float, float] | None:
    now = boot_time_s()
    return None if lease is None else (now + lease[0], now + lease[0] + lease[1])


class Lane:
    """A conversation of its own, as one thread of a worker has it."""

    def __init__(self, ours: socket.socket) -> None:
        self.socket = ours
        self.incoming = b""
        self.pending: Job | None = None


class Protocol(RuleBasedStateMachine):
    """A worker that does whatever the protocol allows, and some that it does not."""

    engine_url = ""
    folder_of_all = ""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="guard-fuzz-", dir=self.folder_of_all))
        self.jobs: list[Job] = []
        self.lanes: list[Lane] = []
        self.watched: dict[str, tuple[float, float] | None] = {}
        #: Containers that the guard was told to leave alone, or leaves alone because a worker went away.
        self.unwatched: set[str] = set()
        #: Boot times between which nobody listened to the guard: what happened then is kept, and not told.
        self.unheard: list[tuple[float, float]] = []
        self.alone_since = 0.0
        #: Containers whose leases ran out, as it was told.
        self.expired: list[str] = []
        #: Orders that nobody sends who knows the protocol: each is printed, and no more comes of it.
        self.bad_orders = self.unread_orders = 0
        self.is_frozen = self.is_detached = False
        self.guard: subprocess.Popen[bytes]
        self.errors = (self.folder / "errors").open("ab")
        (self.folder / "lock").touch()
        self.lock_fd = os.open(self.folder / "lock", os.O_RDWR)
        self._begin()

    def _begin(self) -> None:
        self.control, theirs = socket.socketpair()
        self.incoming = b""
        with theirs, guard_process._listening(self.folder) as door:
            assert door is not None
            fds = [theirs.fileno(), door.fileno(), self.lock_fd]
            program = (
                "import sys; sys.path.insert(0, sys.argv.pop(1)); "
                "from launch_worker.runners.process.guard import main; main()"
            )
            self.guard = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", program, ROOT, *map(str, fds), ROOT, str(self.folder)],
                pass_fds=fds,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stderr=self.errors,
                env=os.environ | {"DOCKER_HOST": self.engine_url},
            )
        self.control.settimeout(20.0)
        hello = self.control.recv(1 << 16)
        assert json.loads(hello)["on"] == "hello"
        self.num_fds = len(os.listdir(f"/proc/{self.guard.pid}/fd"))
        self.is_detached = self.is_frozen = False

    # -- what happens ----------------------------------------------------------------------------------------------

    @rule(kind=_kinds, lane=st.booleans(), piped=st.booleans(), brief_s=_brief, lease=_leases, moment=_moments)
    def start(
        self, kind: str, lane: bool, piped: bool, brief_s: float, lease: tuple[float, float] | None, moment: float
    ) -> None:
        job = Job.make(self.folder, KINDS[kind])
        self._order(job, lane=lane, piped=piped, order=job.order(_until(lease), brief_s=brief_s))
        time.sleep(moment)

    @rule(what=st.sampled_from(sorted(REFUSED)), lane=st.booleans(), piped=st.booleans())
    def start_what_cannot_be(self, what: str, lane: bool, piped: bool) -> None:
        job = Job.make(self.folder, KINDS["ends at once"])
        job.is_refused = True
        self._order(job, lane=lane, piped=piped, order=job.order(None, **REFUSED[what]))

    @rule(at=_any, piped=st.booleans())
    def start_what_runs(self, at: int, piped: bool) -> None:
        """A bad order, and its pipe with it."""
        # Surely: one that has ended by now would be started anew.
        running = [
            job
            for job in self.jobs
            if job.told and not job.is_told and job.kind.status is None and job.grace_s is None and job.leases == [None]
        ]
        if running and not self.is_detached:
            order = running[at % len(running)].order(None) | {"brief_s": 0}
            self._send_bad(order, piped=piped)

    @rule(at=_any, piped=st.booleans(), what=st.sampled_from(["no word", "an argument", "no argument"]))
    def order_badly(self, at: int, piped: bool, what: str) -> None:
        job = Job.make(self.folder, KINDS["ends at once"])
        order = job.order(None)
        if what == "no word":
            order["do"] = "dance"
        elif what == "an argument":
            order["more"] = 1
        else:
            del order["log"]
        if not self.is_detached:
            self._send_bad(order, piped=piped)

    @rule(at=_any, grace_s=_graces, moment=_moments)
    def stop(self, at: int, grace_s: float, moment: float) -> None:
        """One that runs, or has ended."""
        if not self.jobs or self.is_detached:
            return
        job = self.jobs[at % len(self.jobs)]
        self._stop(job, grace_s)
        time.sleep(moment)

    @rule(grace_s=_graces)
    def stop_nothing(self, grace_s: float) -> None:
        if not self.is_detached:
            self._tell({"do": "stop", "key": "unknown", "grace_s": grace_s})

    @rule(at=_any, lease=_leases, moment=_moments)
    def renew(self, at: int, lease: tuple[float, float] | None, moment: float) -> None:
        if self.is_detached:
            return
        leases: dict[str, Any] = {"unknown": None}
        known = [*(job.key for job in self.jobs), *self.watched]
        if known:
            leases[known[at % len(known)]] = until = _until(lease)
            for job in self.jobs:
                if job.key in leases:
                    job.leases.append(until)
            for key in self.watched:
                if key in leases:
                    self.watched[key] = until
        self._tell({"do": "lease", "leases": leases})
        time.sleep(moment)

    @rule(lease=_leases)
    def watch(self, lease: tuple[float, float] | None) -> None:
        if self.is_detached or len(self.watched) >= 2:
            return
        key = new_run_id()
        self.watched[key] = _until(lease)
        self._tell(
            {
                "do": "watch",
                "key": key,
                "container": f"no-such-{key}",
                "lease": self.watched[key],
                "more": {"attempt": f"{key}.1"},
            }
        )

    @rule(at=_any)
    def unwatch(self, at: int) -> None:
        if not self.is_detached:
            known = sorted(self.watched) or ["unknown"]
            self._tell({"do": "unwatch", "key": known[at % len(known)]})
            self.unwatched.add(known[at % len(known)])

    @rule(at=_any)
    def hear_no_more_on_a_lane(self, at: int) -> None:
        """As a thread that has waited for too long."""
        lanes = [lane for lane in self.lanes if lane.pending is not None]
        if lanes:
            lanes[at % len(lanes)].socket.shutdown(socket.SHUT_RD)

    @rule(at=_any)
    def close_a_lane(self, at: int) -> None:
        lanes = [lane for lane in self.lanes if lane.pending is None]
        if lanes:
            self._close(lanes[at % len(lanes)])

    @rule()
    def freeze(self) -> None:
        if not self.is_frozen and self.guard.poll() is None:
            self.is_frozen = True
            os.kill(self.guard.pid, signal.SIGSTOP)

    @rule(moment=_moments)
    def thaw(self, moment: float) -> None:
        self._thaw()
        time.sleep(moment)

    @rule(number=st.sampled_from([signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1]))
    def signal_it(self, number: int) -> None:
        # One that is detached may be ending just now, and no Python handles signals at its very end.
        if not self.is_detached:
            os.kill(self.guard.pid, number)

    @rule(waits=st.booleans(), moment=_moments)
    def detach(self, waits: bool, moment: float) -> None:
        if self.is_detached:
            return
        if waits:
            self._thaw()
            settle(lambda: self._hear() or all(job.told for job in self.jobs), timeout_s=5.0)
        self._tell({"do": "detach"})
        self._go()
        time.sleep(moment)

    @rule(moment=_moments, again=st.booleans())
    def take(self, moment: float, again: bool) -> None:
        # Who is gone before its first order leaves the guard as it was.
        if self.is_detached and again and self._take(orders=False):
            self._hear()
            self._go()
        if self.is_detached:
            self._take()
        time.sleep(moment)

    @rule(moment=_moments)
    def wait(self, moment: float) -> None:
        time.sleep(moment)

    # -- the conversation ------------------------------------------------------------------------------------------

    def _order(self, job: Job, *, lane: bool, piped: bool, order: dict[str, Any]) -> None:
        if self.is_detached:
            return
        fds = []
        if piped:
            job.pipe = make_pipe()
            fds = [job.pipe]
            order["piped"] = True
        self.jobs.append(job)
        on = self._free_lane() if lane else None
        if on is None:
            self._tell(order, fds)
        else:
            on.pending = job
            _send(on.socket, order, fds)

    def _free_lane(self) -> Lane | None:
        for lane in self.lanes:
            if lane.pending is None:
                return lane
        if len(self.lanes) >= 4:
            return None
        ours, theirs = socket.socketpair()
        with theirs:
            self._tell({"do": "lane"}, [theirs.fileno()])
        self.lanes.append(Lane(ours))
        return self.lanes[-1]

    def _send_bad(self, order: dict[str, Any], *, piped: bool) -> None:
        self.bad_orders += 1
        if piped:
            pipe = make_pipe()
            self._tell(order | {"piped": True}, [pipe])
            os.close(pipe)
        else:
            self._tell(order)

    def _stop(self, job: Job, grace_s: float) -> None:
        job.grace_s = grace_s if job.grace_s is None else min(grace_s, job.grace_s)
        self._tell({"do": "stop", "key": job.key, "grace_s": grace_s})

    def _tell(self, order: dict[str, Any], fds: list[int] | None = None) -> None:
        _send(self.control, order, fds or [])

    def _thaw(self) -> None:
        if self.is_frozen and self.guard.poll() is None:
            os.kill(self.guard.pid, signal.SIGCONT)
        self.is_frozen = False

    def _hear(self) -> bool:
        """All that was told until now; whether the guard has hung up."""
        data, hung_up = b"", False
        while _is_readable(self.control):
            more = self.control.recv(1 << 16)
            if not more:
                hung_up = True
                break
            data += more
        # What was told on a lane was told before what is told of the same job here.
        for lane in list(self.lanes):
            self._hear_on(lane)
        *lines, self.incoming = (self.incoming + data).split(b"\n")
        for line in lines:
            self._heed(json.loads(line))
        return hung_up

    def _hear_on(self, lane: Lane) -> None:
        while _is_readable(lane.socket):
            try:
                data = lane.socket.recv(1 << 16)
            except OSError:
                data = b""
            if not data:
                break
            *lines, lane.incoming = (lane.incoming + data).split(b"\n")
            for line in lines:
                told = json.loads(line)
                assert lane.pending is not None, told
                assert lane.pending.key == told["key"]
                lane.pending = None
                self._heed(told)

    def _heed(self, told: dict[str, Any]) -> None:
        if told["on"] == "expired":
            assert told["key"] not in self.expired
            lease = self.watched[told["key"]]
            assert told["key"] in self.unwatched or (lease is not None and lease[0] <= boot_time_s())
            self.expired.append(told["key"])
            return
        (job,) = (job for job in self.jobs if job.key == told["key"])
        for lane in self.lanes:
            if lane.pending is job:
                lane.pending = None
        job.hear(told, guard_pid=self.guard.pid)
        if job.is_told and job.pipe >= 0:
            os.close(job.pipe)
            job.pipe = -1

    def _go(self) -> None:
        """Go away, as a worker that leaves its jobs to the next one."""
        self.alone_since = boot_time_s()
        self.control.shutdown(socket.SHUT_WR)
        self._thaw()
        self._hear_to_the_end()
        self.is_detached = True
        # A container without a lease may outlive its worker.
        self.unwatched.update(key for key, lease in self.watched.items() if lease is None)

    def _has_expired(self, key: str) -> bool:
        """Whether it was told that a container's lease ran out, or was kept while there was nobody to tell."""
        self._hear()
        kept = read_exits(str(self.folder)).get(f"{key}.1")
        is_kept = kept is not None and any(since <= kept.at + 0.001 and kept.at <= to for since, to in self.unheard)
        return key in self.expired or is_kept

    def _hear_to_the_end(self) -> None:
        assert settle(self._hear, timeout_s=_END_S), "the guard does not hang up"
        for lane in list(self.lanes):
            self._close(lane)
        self.control.close()

    def _close(self, lane: Lane) -> None:
        lane.socket.close()
        self.lanes.remove(lane)

    def _take(self, *, orders: bool = True) -> bool:
        """Become the next worker, or begin anew where the guard had nothing left to do: False."""
        self._thaw()
        is_taken = self._knock(orders=orders)
        self.unheard.append((self.alone_since, boot_time_s()))
        if is_taken:
            return True
        assert self.guard.returncode == 0
        self._ended_unheard(set())
        self._begin()
        return False

    def _knock(self, *, orders: bool) -> bool:
        while self.guard.poll() is None:
            guest = socket.socket(socket.AF_UNIX)
            guest.settimeout(5.0)
            data, fds = b"", []
            try:
                with guard_process.short_path(self.folder) as short:
                    guest.connect(short)
                guest.sendall(json.dumps({"do": "take", "protocol": 1}).encode() + b"\n")
                while not data.endswith(b"\n"):
                    more, brought, _, _ = socket.recv_fds(guest, 1 << 20, 253)
                    if not more:
                        break
                    data += more
                    fds += brought
            except OSError:
                data = b""
            for fd in fds:
                os.close(fd)
            if data:
                self._be_its_worker(guest, json.loads(data))
                if orders:
                    self._tell({"do": "lease", "leases": {}})
                return True
            guest.close()  # it was just leaving
        return False

    def _be_its_worker(self, guest: socket.socket, taken: dict[str, Any]) -> None:
        assert taken["on"] == "taken"
        guest.settimeout(20.0)
        self.control, self.incoming, self.is_detached = guest, b"", False
        left = {entry["key"]: entry for entry in taken["jobs"]}
        self._ended_unheard(set(left))
        for job in self.jobs:
            entry = left.get(job.key)
            if entry is None:
                continue
            assert not job.is_told, job
            words = [each["on"] for each in job.told]
            assert words, ("left without a word", job)
            assert entry["pid"] == job.told[0]["pid"], job
            if entry["exited"] and "exited" not in words:
                job.hear({"on": "exited", **entry}, guard_pid=self.guard.pid)

    def _ended_unheard(self, left: set[str]) -> None:
        for job in self.jobs:
            if not job.is_told and job.key not in left:
                job.is_over = True
                job.check_kept()
                job.check_nothing_lives(self.guard.pid)
                if job.pipe >= 0:
                    os.close(job.pipe)
                    job.pipe = -1

    # -- what must be so -------------------------------------------------------------------------------------------

    @invariant()
    def it_lives(self) -> None:
        if not self.is_detached:
            self._hear()
            assert self.guard.poll() is None, "the guard has died"

    def teardown(self) -> None:
        try:
            if self.is_detached:
                self._take()
            self._thaw()
            if len(self.jobs) % 3 == 1:
                self._die()
            else:
                self._settle()
            # Who dies may have ordered what nobody read.
            failures = (self.folder / "errors").read_text()
            assert self.bad_orders - self.unread_orders <= self._num_failures() <= self.bad_orders, failures
            for job in self.jobs:
                job.check_end(self.guard.pid)
        finally:
            self._clear()

    def _settle(self) -> None:
        for job in self.jobs:
            if not job.is_told and not job.must_end:
                self._stop(job, 0.0)
        assert settle(lambda: self._hear() or all(job.is_told for job in self.jobs), timeout_s=_END_S), [
            job for job in self.jobs if not job.is_told
        ]
        for job in self.jobs:
            self._tell({"do": "stop", "key": job.key, "grace_s": 0})
        for key, lease in self.watched.items():
            if lease is not None and lease[0] < boot_time_s() - 0.5 and key not in self.unwatched:
                assert settle(lambda key=key: self._has_expired(key), timeout_s=5.0), key  # type: ignore[misc]
            self._tell({"do": "unwatch", "key": key})
        for lane in list(self.lanes):
            self._close(lane)
        assert settle(lambda: tree.children(self.guard.pid) == [], timeout_s=_END_S), [
            tree.look_up(pid) for pid in tree.children(self.guard.pid) or ()
        ]
        fds = f"/proc/{self.guard.pid}/fd"
        # One more: what jobs read from.
        assert settle(lambda: len(os.listdir(fds)) <= self.num_fds + 1, timeout_s=5.0), [
            os.readlink(f"{fds}/{fd}") for fd in os.listdir(fds)
        ]
        # A guard that cannot answer a worker which is gone reads no more of its orders.
        settle(lambda: self._hear() or self._num_failures() >= self.bad_orders, timeout_s=5.0)
        self.control.close()
        assert self.guard.wait(_END_S) == 0

    def _num_failures(self) -> int:
        return (self.folder / "errors").read_text().count("guard.failed")

    def _die(self) -> None:
        """As a worker that is killed: nobody hears of its jobs any more, and all of them end."""
        for job in self.jobs:
            job.was_dropped = True
        self.unread_orders = self.bad_orders
        self._hear()
        self.control.close()
        for lane in list(self.lanes):
            self._close(lane)
        # Containers keep it until their leases are over.
        if not any(lease is not None and lease[0] > boot_time_s() for lease in self.watched.values()):
            assert self.guard.wait(_END_S) == 0
        else:
            assert settle(lambda: tree.children(self.guard.pid) == [], timeout_s=_END_S)
        for job in self.jobs:
            if not job.is_told and not job.is_refused:
                job.check_kept()

    def _clear(self) -> None:
        if self.guard.poll() is None:
            self.guard.kill()
            self.guard.wait()
        _clear(self.folder, self.jobs)
        for job in self.jobs:
            if job.pipe >= 0:
                os.close(job.pipe)
        for lane in self.lanes:
            lane.socket.close()
        self.control.close()
        self.errors.close()
        os.close(self.lock_fd)


class Runner(RuleBasedStateMachine):
    """A worker whose guards are killed, and that leaves its jobs to the next one."""

    folder_of_all = ""

    def __init__(self) -> None:
        super().__init__()
        oom.own_counter()  # is kept open
        self.own_fds = _fds(os.getpid())
        self.folder = Path(tempfile.mkdtemp(prefix="guard-fuzz-", dir=self.folder_of_all))
        self.jobs: list[Job] = []
        self.starting: list[threading.Thread] = []
        self.is_frozen = False
        self._begin()
        self.num_fds = len(os.listdir(f"/proc/{self.guard_pid}/fd"))

    def _begin(self) -> None:
        (self.folder / "lock").touch()
        self.lock_fd = os.open(self.folder / "lock", os.O_RDWR)
        self.runner = ProcessRunner(lock_fd=self.lock_fd, folder=self.folder).open()
        assert self.runner.guard.greeted.wait(20.0)
        _have_control_used(self.runner)
        self.taken_pid = 0
        self.killed: set[int] = set()

    @property
    def guard_pid(self) -> int:
        return self.taken_pid if self.runner.guard.process is None else guard_of(self.runner)

    # -- what happens ----------------------------------------------------------------------------------------------

    @rule(kind=_kinds, lane=st.booleans(), brief_s=_brief, lease=_leases, moment=_moments)
    def start(self, kind: str, lane: bool, brief_s: float, lease: tuple[float, float] | None, moment: float) -> None:
        job = Job.make(self.folder, KINDS[kind])
        self._start(job, lane=lane, brief_s=brief_s, lease=_until(lease), argv=["sh", "-c", job.script])
        time.sleep(moment)

    @rule(lane=st.booleans(), brief_s=_brief)
    def start_what_cannot_be(self, lane: bool, brief_s: float) -> None:
        job = Job.make(self.folder, KINDS["ends at once"])
        job.is_refused = True
        self._start(job, lane=lane, brief_s=brief_s, lease=None, argv=["no-such-program-at-all"])

    @rule(at=_any, grace_s=_graces, moment=_moments)
    def stop(self, at: int, grace_s: float, moment: float) -> None:
        started = [job for job in self.jobs if job.handle is not None]
        if started:
            self._stop(started[at % len(started)], grace_s)
        time.sleep(moment)

    @rule(at=_any, lease=_leases, moment=_moments)
    def renew(self, at: int, lease: tuple[float, float] | None, moment: float) -> None:
        if self.jobs:
            job = self.jobs[at % len(self.jobs)]
            job.leases.append(_until(lease))
            self.runner.renew({job.key: job.leases[-1]})
        time.sleep(moment)

    @rule()
    def freeze(self) -> None:
        if not self.is_frozen:
            self.is_frozen = True
            self._send(signal.SIGSTOP)

    @rule(moment=_moments)
    def thaw(self, moment: float) -> None:
        self._thaw()
        time.sleep(moment)

    @rule(waits=st.booleans(), moment=_moments)
    def kill_the_guard(self, waits: bool, moment: float) -> None:
        pid = self.guard_pid
        self.killed.add(pid)
        for job in self.jobs:
            job.may_be_adopted = job.may_be_adopted or not job.is_told
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self.is_frozen = False
        if waits:
            assert settle(lambda: self.runner.guard.generation == len(self.killed), timeout_s=20.0)
        time.sleep(moment)

    @rule(moment=_moments)
    def be_replaced(self, moment: float) -> None:
        """By the next worker, which is this process again."""
        self._thaw()
        self._have_started()
        assert settle(lambda: self.runner.guard.generation == len(self.killed), timeout_s=20.0)
        # One that dies at this very instant is not replaced: the next worker ends what it left.
        former = self.guard_pid
        self.runner.detach()
        self._hear()
        os.close(self.lock_fd)
        until = boot_time_s() + moment
        while boot_time_s() < until:
            self._be_init()
            time.sleep(0.01)
        taken = None
        while taken is None and tree.look_up(former) is not None:
            self._be_init()
            if _has_ended(former):
                os.waitpid(former, 0)
                break
            taken = take_over(self.folder)
        left = {} if taken is None else {job.key: job for job in taken[1]}
        for job in self.jobs:
            if job.is_told:
                continue
            claimed = left.get(job.key)
            if claimed is None:
                job.is_over = True
                job.check_nothing_lives(former)
                if not job.may_be_adopted:
                    job.check_kept()
                continue
            job.was_left = True
            assert taken is not None
            # What the next one is told of an exit is what this one was told.
            job.told = [each for each in job.told if each["on"] == "started"]
            job.handle = taken[0].claim(claimed, env=job.env, grace_s=0.3, events=job.events)
        if taken is None:
            self._begin()
        else:
            self.runner, _, self.lock_fd = taken
            _have_control_used(self.runner)
            self.taken_pid, self.killed = former, set()
            self.runner.open()
            self.runner.renew({job.key: job.leases[-1] for job in self.jobs})

    def _be_init(self) -> None:
        """Reap what came to a worker that has ended."""
        for pid in tree.children(os.getpid()) or ():
            if any(tree.has_cookie(pid, tree.cookie(tree.marks(job.env))) for job in self.jobs):
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _start(
        self, job: Job, *, lane: bool, brief_s: float, lease: tuple[float, float] | None, argv: list[str]
    ) -> None:
        job.leases.append(lease)
        self.jobs.append(job)
        runner = self.runner
        asked = threading.Event()

        def start() -> None:
            try:
                job.handle = runner.start(
                    argv,
                    key=job.key,
                    env=job.env,
                    cwd=job.folder,
                    log_path=job.log,
                    grace_s=0.3,
                    lease=lease,
                    events=job.events,
                    timeout_s=25.0,
                    brief_s=brief_s,
                )
            except StartError as error:
                job.refusal = str(error)
            finally:
                asked.set()

        thread = threading.Thread(target=start, daemon=True, name="by a lane" if lane else "by control")
        self.starting.append(thread)
        thread.start()
        settle(lambda: job.key in runner._handles or asked.is_set(), timeout_s=5.0)

    def _stop(self, job: Job, grace_s: float) -> None:
        assert job.handle is not None
        job.grace_s = grace_s if job.grace_s is None else min(grace_s, job.grace_s)
        job.handle.stop(grace_s=grace_s)

    def _send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it is being replaced
            os.kill(self.guard_pid, number)

    def _thaw(self) -> None:
        if self.is_frozen:
            self.is_frozen = False
            self._send(signal.SIGCONT)

    def _have_started(self) -> None:
        for thread in self.starting:
            thread.join(30.0)
            assert not thread.is_alive(), "nobody answers a start"
        self.starting.clear()

    def _hear(self) -> None:
        for job in self.jobs:
            if not job.told and job.refusal:
                job.hear({"on": "refused"}, guard_pid=self.guard_pid)
                assert "was not found" in job.refusal or "renew the lease" in job.refusal, job
            if not job.told and job.handle is not None:
                job.hear({"on": "started"}, guard_pid=self.guard_pid)
            while job.told and not job.events.empty():
                event = job.events.get()
                if isinstance(event, Exited):
                    told = {"on": "exited", "status": event.status, "stopped_by": event.stopped_by}
                    job.hear(told | {"kept": event.is_kept}, guard_pid=self.guard_pid)
                else:
                    assert isinstance(event, Gone)
                    job.hear({"on": "gone"}, guard_pid=self.guard_pid)

    @invariant()
    def all_is_told(self) -> None:
        self._hear()
        reap_orphans()
        assert self.runner.guard.generation <= len(self.killed), "a guard has died by itself"

    def teardown(self) -> None:
        try:
            self._thaw()
            self._have_started()
            self._settle()
            for job in self.jobs:
                job.check_end(self.guard_pid)
            self.runner.close()
            os.close(self.lock_fd)
            assert settle(lambda: _has_ended(self.guard_pid), timeout_s=_END_S)
            if self.runner.guard.process is None:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(self.guard_pid, 0)
            assert settle(lambda: not _fds(os.getpid()) - self.own_fds, timeout_s=5.0), _fds(os.getpid()) - self.own_fds
        finally:
            self.runner.close(timeout_s=0.1)
            _clear(self.folder, self.jobs)

    def _settle(self) -> None:
        self._hear()
        for job in self.jobs:
            if not job.is_told and not job.must_end:
                self._stop(job, 0.0)

        def is_over() -> bool:
            self.all_is_told()
            return all(job.is_told for job in self.jobs)

        assert settle(is_over, timeout_s=_END_S), [job for job in self.jobs if not job.is_told]
        assert self.runner.is_idle
        assert settle(lambda: self.runner.guard.generation == len(self.killed), timeout_s=20.0)
        fds = f"/proc/{self.guard_pid}/fd"
        assert settle(
            lambda: len(os.listdir(fds)) <= self.num_fds + 1 + self.runner.guard.num_channels, timeout_s=5.0
        ), [os.readlink(f"{fds}/{fd}") for fd in os.listdir(fds)]
        assert settle(lambda: tree.children(self.guard_pid) == [], timeout_s=_END_S)
        marks = [tree.cookie(tree.marks(job.env)) for job in self.jobs]

        def is_reaped() -> bool:
            reap_orphans()
            return not any(tree.cookie_of(pid) in marks for pid in tree.children(os.getpid()) or ())

        assert settle(is_reaped, timeout_s=5.0), "a zombie is left under the worker"


def _have_control_used(runner: ProcessRunner) -> None:
    """By the threads whose names say so; the others order on lanes."""
    take = runner.guard.take_channel
    vars(runner.guard)["take_channel"] = lambda: None if threading.current_thread().name == "by control" else take()


def _fds(pid: int) -> set[str]:
    """What the process has open, by number and name."""
    found = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found.add(f"{fd} {os.readlink(f'/proc/{pid}/fd/{fd}')}")
    return found


def _has_ended(pid: int) -> bool:
    found = tree.look_up(pid)
    return found is None or found.zombie


def _is_readable(peer: socket.socket) -> bool:
    poll = select.poll()
    poll.register(peer, select.POLLIN)
    return bool(poll.poll(0))


def _send(peer: socket.socket, order: dict[str, Any], fds: list[int]) -> None:
    line = json.dumps(order).encode() + b"\n"
    sent = socket.send_fds(peer, [line], fds) if fds else 0
    peer.sendall(line[sent:])


def _clear(folder: Path, jobs: list[Job]) -> None:
    """End what a failed example has left, and delete what a good one has."""
    for job in jobs:
        marked = tree.marks(job.env | {"LAUNCH_RUN_ID": job.key})
        tree.end(lambda marked=marked: tree.members(None, marked=marked), wait=time.sleep)  # type: ignore[misc]
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def engine_url() -> Iterator[str]:
    """Of a container engine that has no container."""
    engine = ScriptedEngine()
    yield engine.url
    engine.close()


def _try_out(machine: type[RuleBasedStateMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=_EXAMPLES,
            stateful_step_count=_STEPS,
            suppress_health_check=list(HealthCheck),
            # What depends on time is not made smaller by trying again.
            phases=(Phase.generate,),
            database=None,
        ),
    )


@pytest.mark.timeout(60 + 40 * _EXAMPLES)
def test_whatever_a_guard_is_ordered_each_job_is_told_once_and_nothing_is_left(engine_url: str, tmp_path: Path) -> None:
    Protocol.engine_url = engine_url
    Protocol.folder_of_all = str(tmp_path)
    _try_out(Protocol)


@pytest.mark.timeout(60 + 40 * _EXAMPLES)
def test_whatever_becomes_of_guards_each_job_is_told_once_and_nothing_is_left(tmp_path: Path) -> None:
    Runner.folder_of_all = str(tmp_path)
    _try_out(Runner)
