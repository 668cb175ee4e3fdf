"""The guard: a small process that starts a worker's jobs, outlives the worker and ends them when it vanishes.

It is the parent and the subreaper of every job, so that whatever a job leaves behind comes back to it. It knows no
policy: it starts, stops, enforces the deadlines it was told, and tells what happened. It talks with its worker in
JSON lines over a socket; the end of that stream means that the worker is gone. Standard library only.

    worker: {"do": "start" | "adopt" | "stop" | "lease" | "watch" | "unwatch" | "lane" | "detach" | "pulse" | "alive"}
    guard:  {"on": "hello" | "started" | "refused" | "exited" | "gone" | "ended" | "expired" | "unendable" | "ping"}

Every started or adopted job is told `exited` (its main process ended) and then `gone` (its tree is empty). A start
may say for how long (`brief_s`) a job counts as brief: one that is over by then is told once, `ended`, instead of
`started`, `exited` and `gone`. `hello` comes first and names what this guard knows beyond the oldest one of its
`PROTOCOL`. A thread of the worker may order its jobs on a lane of its own, a socket that `lane` brings along: what
comes of the order (`started`, `refused`, `ended`) is told there, without a detour. A container is no child of the
guard: it is only watched, and ended (`expired`) when its lease runs out.

A worker that has said `pulse` is asked (`ping`) when it was silent for a while, and says that it is `alive`. One that
says nothing at all for as long as it has named is hung: the guard kills it, and ends its jobs as after any death of it.

A job prints into a pipe, and the guard moves what comes into the file `log`. A `piped` order brings the pipe's read
end along: its worker has it too, so that a job whose guard dies can go on printing, and the next guard gets it. All
that a job has printed is in the file before it is told `gone` or `ended`; `disk_full` says that some was given up.

After `detach` the jobs stay when the worker goes, each until its lease runs out. Meanwhile the guard answers at
`SOCKET` in its worker's folder: the next worker says {"do": "take"}, gets {"on": "taken", "jobs": […]} with the
folder's lock and the jobs' pipes, and is the guard's worker from then on.
"""

from __future__ import annotations

import array
import contextlib
import errno
import json
import math
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from launch_worker.runners.output import Piped, make_pipe, open_for_printing
from launch_worker.runners.process import tree
from launch_worker.runners.process.exits import Exit, ExitFile
from launch_worker.runners.process.own_process import become_subreaper, have_usual_signals, hide_memory
from launch_worker.runners.process.spawn import spawn
from launch_worker.runners.process.tree import ProcessId

#: What is left of a job after its main process ended by itself, or after its worker vanished, gets SIGTERM first.
AFTERMATH_S = 2.0
#: In a worker's folder: where its guard answers the next worker.
SOCKET = "guard.sock"
#: What guard and worker must agree on; they may be of different releases after an upgrade.
PROTOCOL = 1
#: What a start may ask for; said with `hello`.
KNOWS = ("brief", "lanes", "pipes", "pulse")
#: A new worker that connects and says nothing for so long is hung up on: another one may wait.
_GREETING_S = 1.0
#: The kernel takes no wait of more than 24 days.
_LONGEST_WAIT_S = 3600.0
#: How many things that happen are dealt with in one turn.
_EVENTS = 64
#: How long it may take whoever has the child of a worker that left to reap it.
_REAPED_S = 5.0
#: After something went wrong: how long nothing is tried, and how many times that is printed in full.
_BRAKE_S = 0.05
_PRINTED_FAILURES = 20
#: How often it is looked at once for processes that fork and exit all the time.
_SWEEPS = 50
#: The longest pause between two looks at a job of which nothing is left but what cannot be ended.
_IN_VAIN_S = 1.0
#: How many of these processes are told.
_NAMED = 5
#: Orders that say nothing of jobs: they do not undo a `detach` before them.
_OF_THE_PULSE = ("pulse", "alive")
#: A silent worker is asked after this part of the time in which it must answer.
_ASKED_AFTER = 1 / 5
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
#: A job that could not be looked at is looked at again then.
_AGAIN_S = 0.5
#: Taken at once; larger memory is asked of the kernel each time, which costs more than a second call.
_RECV_BYTES = 1 << 16
_FD_BYTES = struct.calcsize("i")
#: In the place of a descriptor that came along, when this process has too many open files.
_NOT_BROUGHT = -1
#: The kernel takes so many descriptors in one message, and some are no pipes.
_FDS_AT_ONCE = 250
#: What a file keeps of the newest output, for a worker of an older release, which does not say.
_LOG_BYTES = 64 << 20
#: Since a job was told `started`: then its output has room ahead. Nobody fills a disk with plenty of room before.
_ROOM_AFTER_S = 1.0


def boot_time_s() -> float:
    """Seconds since boot, suspended time included: the clock of deadlines between a worker and its guard."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Job:
    """One job's tree, from its start until nothing of it is left."""

    def __init__(
        self, key: str, marked: tuple[bytes, ...], grace_s: float, lease: list[float] | None, *, pid: int, folder: str
    ) -> None:
        self.key = key
        self.marked = marked
        self.cookie = tree.cookie(marked)
        #: Of its main process.
        self.pid = pid
        self._main: ProcessId | None = None
        #: Where its output is.
        self.folder = folder
        #: None where it prints straight into its file: it was started by a guard of an older release.
        self.output: Piped | None = None
        #: When its output is looked at again, and when room is made for it; None for not.
        self.move_at: float | None = None
        self.room_at: float | None = None
        self.grace_s = grace_s
        #: It may turn out to be a brief one: when it is told `started` at the latest; None once it was.
        self.tell_at: float | None = None
        #: Set for a job that another guard started: its exit is seen through this, and its parent reaps it.
        self.pidfd: int | None = None
        #: It has ended, and there is no worker that reaps it and tells: until when somebody else is waited for.
        self.reaped_by: float | None = None
        self.adopted = False
        self.exited = False
        #: Whether its worker was told so.
        self.is_exit_told = False
        #: Whether its exit status is in the file of the exits.
        self.is_kept = False
        #: Its exit status, once it is known here.
        self.status: int | None = None
        #: Processes that were seen in the tree: one that cleared its environment is known by this.
        self.seen: set[ProcessId] = set()
        self.termed: set[ProcessId] = set()
        #: Another user's, which this one may not signal: a program that is setuid was started.
        self.foreign: set[ProcessId] = set()
        #: Which of them its worker was told.
        self.foreign_told: set[ProcessId] = set()
        self.kill_at: float | None = None
        #: When it began to be ended, in clock ticks since boot.
        self.ends_since: int | None = None
        #: Its former guard was stopping it.
        self.was_stopped = False
        self.look_at = 0.0
        self.pause_s = 0.01
        #: Where it was ordered, if not by `control`.
        self.lane: Lane | None = None
        #: When its lease must be over: [SIGTERM, SIGKILL] by boot time; None for a job that may outlive its lease.
        self.lease = lease
        self.lease_enforced = False
        self.stopped_by = ""

    @property
    def main(self) -> ProcessId:
        """Its main process; to be asked for the first time before that one is reaped."""
        if self._main is None:
            found = tree.look_up(self.pid)
            # A /proc that hides other users' processes does not show one that has changed its user.
            self._main = ProcessId(self.pid, 0) if found is None else found.id
        return self._main

    @main.setter
    def main(self, main: ProcessId) -> None:
        self._main = main

    @property
    def attempt(self) -> str:
        """The name of its attempt's folder."""
        return os.path.basename(self.folder)

    @property
    def ended_by(self) -> str:
        """Who had signalled its main process, or had tried to: '' for nobody."""
        is_signalled = self.was_stopped or (self.termed and self.main in self.termed) or self.main in self.foreign
        return self.stopped_by if is_signalled else ""

    def due(self) -> float:
        """By boot time, when it must be looked at."""
        times = (self.tell_at, self.reaped_by, self.move_at, self.room_at)
        due = min((at for at in times if at is not None), default=math.inf)
        if self.lease and not self.lease_enforced:
            due = min(due, self.lease[0])
        if self.kill_at is not None or self.exited:
            due = min(due, self.look_at)
        return due


class Pulse:
    """For how long the worker has said nothing, as far as this guard could hear it.

    Each look adds one interval at most. So a machine that stood still, or a guard that was stopped, is not taken for a
    worker that is hung.
    """

    def __init__(self, within_s: float) -> None:
        self.within_s = within_s
        self.interval_s = within_s * _ASKED_AFTER
        self.heard()

    def heard(self) -> None:
        self.silent_s = 0.0
        self.is_asked = False
        self.looked_at = boot_time_s()
        #: When to look next.
        self.due = self.looked_at + self.interval_s

    def look(self) -> None:
        now = boot_time_s()
        self.silent_s += min(max(0.0, now - self.looked_at), self.interval_s)
        self.looked_at = now
        self.due = now + self.interval_s


class Lane:
    """Where one thread of the worker orders a job, and hears what came of that."""

    def __init__(self, socket: socket.socket) -> None:
        self.socket = socket
        self.incoming = b""
        #: Pipes that came with orders which were not read yet.
        self.brought: list[int] = []


class Watched:
    """A container that must not outlive its lease."""

    def __init__(self, container: str, lease: list[float] | None, more: dict[str, Any]) -> None:
        self.container = container
        self.lease = lease
        #: What the program that ends it needs to know besides.
        self.more = more


class Guard:
    """The loop. `control` is the worker's end of the conversation, `door` where the next worker knocks.

    `lock_fd` is the lock of the worker's `folder`, which goes to the next worker with the jobs.

    What goes wrong with one order or one job is printed, and ends neither this process nor the other jobs (`_try`).
    """

    def __init__(
        self,
        control: socket.socket,
        door: socket.socket | None = None,
        *,
        lock_fd: int | None = None,
        root: str = "",
        folder: str = "",
    ) -> None:
        self._failures = 0
        self.control = control
        control.setblocking(False)
        self._door = door
        if door is not None:
            door.setblocking(False)
        self._lock_fd = lock_fd
        #: Where this package lies, for the program that ends a container.
        self._root = root
        self.jobs: dict[str, Job] = {}
        #: Jobs by their main processes, as long as those are this process's children.
        self._mains: dict[int, Job] = {}
        #: Jobs that another guard started, by what their exits are seen through.
        self._pidfds: dict[int, Job] = {}
        #: Jobs whose output is waited for, by their pipes.
        self._pipes: dict[int, Job] = {}
        #: Jobs that this guard started, by what their processes carry; and whose its orphans are, until it reaps them.
        self._by_cookie: dict[int, Job] = {}
        self._owners: dict[int, Job] = {}
        self._children = tree.Children()
        self.watched: dict[str, Watched] = {}
        #: No deadline of a job or a container is before this.
        self._due = math.inf
        #: Never a job's process: the worker.
        self.spared = {os.getppid()}
        #: Of the worker; None where it cannot be had.
        self._worker_fd: int | None = None
        self._hold_worker(os.getppid())
        #: None for a worker that does not answer when it is asked: one of an older release.
        self._pulse: Pulse | None = None
        self._exits: ExitFile | None = None
        if folder:
            self._try("file of the exits", self._open_exits, folder)
        #: The worker ended the conversation, or died: no more orders are taken, and what runs is ended, unless the
        #: worker detached itself before.
        self.worker_gone = False
        self._detached = False
        #: It is gone, and what it left must be ended.
        self._ends_all = False
        #: It does not even listen any more.
        self._deaf = False
        self._incoming = b""
        self._outgoing = b""
        #: By descriptor.
        self._lanes: dict[int, Lane] = {}
        #: Descriptors that came with orders which were not read yet.
        self._brought: list[int] = []
        self._orders: dict[str, Callable[..., None]] = {
            "start": self._do_start,
            "adopt": self._do_adopt,
            "stop": self._do_stop,
            "lease": self._do_lease,
            "watch": self._do_watch,
            "unwatch": self._do_unwatch,
            "lane": self._do_lane,
            "pulse": self._do_pulse,
            "alive": lambda: None,
            "detach": self._do_detach,
        }
        self._wake_read, self._wake_write = os.pipe()
        for fd in (self._wake_read, self._wake_write):
            os.set_blocking(fd, False)
        self._epoll = select.epoll()
        #: What is listened for, by descriptor.
        self._listened: dict[int, int] = {}
        self._listen(self._wake_read, select.EPOLLIN)
        self._listen_to_worker()
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        # A handler, not SIG_IGN: an ignored signal stays ignored across exec, and jobs must get theirs.
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
            signal.signal(number, lambda *_: None)
        self._tell("hello", "", knows=KNOWS)

    def _open_exits(self, folder: str) -> None:
        self._exits = ExitFile(folder)

    def run(self) -> None:
        while self.jobs or self.watched or not self.worker_gone or (self._outgoing and not self._deaf):
            self._try("a turn", self._turn)

    def _turn(self) -> None:
        self._wait()
        now = boot_time_s()
        if self._due <= now:
            self._look_around()
        if self._pulse_due() <= now:
            self._look_at_pulse()

    def _try(self, what: str, serve: Callable[..., None], *args: Any, **named: Any) -> bool:
        """Do one thing; False when it went wrong, which is printed into the worker's log."""
        try:
            serve(*args, **named)
        except Exception:  # noqa: BLE001 (all jobs of the worker end with this process)
            self._failures += 1
            if self._failures <= _PRINTED_FAILURES:
                with contextlib.suppress(Exception):
                    sys.stderr.write(f"guard.failed: {what}\n")
                    import traceback  # takes as long to import as all the rest, and a descriptor

                    traceback.print_exc()
            time.sleep(_BRAKE_S)
            return False
        return True

    def _look_around(self) -> None:
        """Do what is due."""
        self._due = math.inf
        if self._ends_all:
            self._end_all()
        now = boot_time_s()
        for job in list(self.jobs.values()):
            if not self._try(f"job {job.key}", self._look_at, job, now):
                job.look_at = now + _AGAIN_S
            if self.jobs.get(job.key) is job:
                self._be_due(job.due())
        for key, watched in list(self.watched.items()):
            self._try(f"container of {key}", self._enforce_watched, key, watched, now)
            if watched.lease and key in self.watched:
                self._be_due(watched.lease[0])

    def _look_at(self, job: Job, now: float) -> None:
        if job.tell_at is not None and now >= job.tell_at:
            self._tell_started(job)
        if job.room_at is not None and now >= job.room_at:
            job.room_at = None
            if job.output is not None:
                job.output.make_room()
        if job.move_at is not None and now >= job.move_at:
            self._await_output(job)
        if job.reaped_by is not None and now >= job.reaped_by:
            self._on_exit(job, None)
        # Also a job that is being stopped already, and has a longer grace than its lease.
        if job.lease and now >= job.lease[0] and not job.lease_enforced:
            job.lease_enforced = True
            self._stop(job, grace_s=max(0.0, job.lease[1] - now), why="lease")
        self._end_step(job)

    def _be_due(self, at: float) -> None:
        self._due = min(at, self._due)

    # -- the worker's pulse --------------------------------------------------------------------------------------

    def _hold_worker(self, pid: int) -> None:
        former, self._worker_fd = self._worker_fd, None
        if former is not None:
            os.close(former)
        with contextlib.suppress(OSError):
            self._worker_fd = os.pidfd_open(pid)

    def _pulse_due(self) -> float:
        """When the worker's pulse must be looked at; never where nothing would come of its silence."""
        pulse = self._pulse
        if pulse is None or self.worker_gone or self._detached or not (self.jobs or self.watched or pulse.is_asked):
            return math.inf
        return pulse.due

    def _look_at_pulse(self) -> None:
        pulse = self._pulse
        assert pulse is not None
        pulse.look()
        if pulse.silent_s >= pulse.within_s and self._worker_fd is not None:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._worker_fd, signal.SIGKILL)
            with contextlib.suppress(OSError):  # nobody may read it any more
                sys.stderr.write(f"guard.worker_hung: it has said nothing for {pulse.silent_s:.0f} s and is killed\n")
            # Not when it has gone: one that waits for a dead disk stays for a while.
            self._worker_vanished()
        elif not pulse.is_asked:
            pulse.is_asked = True
            self._tell("ping", "")

    def _heard(self) -> None:
        if self._pulse is not None:
            self._pulse.heard()

    # -- the conversation ----------------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Until something happens, or is due."""
        timeout = min(max(0.0, min(self._due, self._pulse_due()) - boot_time_s()), _LONGEST_WAIT_S)
        ready = [fd for fd, _ in self._epoll.poll(timeout, _EVENTS)]
        if self._wake_read in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)
            # Before there is more to do: a process that is being started blocks this one until its exec.
            self._reap()
        for fd in ready:
            if fd in self._pidfds:
                job = self._pidfds[fd]
                self._try(f"end of {job.key}", self._on_exit, job, None)
        if not self._deaf and self.control.fileno() in ready:
            self._flush()
            if not self.worker_gone:
                self._receive()
        for fd in ready:
            if fd in self._lanes:
                self._receive_on(self._lanes[fd])
        if self._door is not None and self._door.fileno() in ready:
            self._answer_door(self._door)
        for fd in ready:
            if fd in self._pipes:
                self._try("output", self._move_output, self._pipes[fd])

    def _listen(self, fd: int, mask: int) -> None:
        """Listen to a descriptor for this, for nothing else; to be said with 0 before it is closed."""
        known = self._listened.get(fd, 0)
        if mask == known:
            return
        if not mask:
            del self._listened[fd]
            self._epoll.unregister(fd)
            return
        self._listened[fd] = mask
        if known:
            self._epoll.modify(fd, mask)
        else:
            self._epoll.register(fd, mask)

    def _listen_to_worker(self) -> None:
        """For what may come from there now."""
        if not self._deaf:
            wanted = (0 if self.worker_gone else select.EPOLLIN) | (select.EPOLLOUT if self._outgoing else 0)
            self._listen(self.control.fileno(), wanted)
        if self._door is not None:
            self._listen(self._door.fileno(), select.EPOLLIN if self.worker_gone else 0)

    def _receive(self) -> None:
        try:
            data = _receive(self.control, self._brought)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._worker_vanished()
            return
        self._heard()
        # What was ordered on a lane was ordered before: this may be about it.
        for lane in list(self._lanes.values()):
            if not self.worker_gone:
                self._receive_on(lane)
        *lines, self._incoming = (self._incoming + data).split(b"\n")
        for line in lines:
            if self.worker_gone:
                return  # an order before this one could not be answered
            self._try("an order", self._obey, line)
            if len(lines) > 1:
                self._reap()  # as in `_wait`

    def _obey(self, line: bytes) -> None:
        order = json.loads(line)
        do = order.pop("do")
        if do not in _OF_THE_PULSE:
            self._detached = False
        with _came_with(order, self._brought, is_lane=do == "lane"):
            self._orders[do](**order)

    def _obey_on(self, lane: Lane, line: bytes) -> None:
        order = json.loads(line)
        del order["do"]
        with _came_with(order, lane.brought):
            self._do_start(**order, lane=lane)

    def _receive_on(self, lane: Lane) -> None:
        """All that lies there."""
        more = True
        while more:
            try:
                data = _receive(lane.socket, lane.brought)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self._close(lane)
                return
            self._heard()
            lane.incoming += data
            more = not data.endswith(b"\n")
        *lines, lane.incoming = lane.incoming.split(b"\n")
        for line in lines:
            if self.worker_gone:
                return
            self._try("an order", self._obey_on, lane, line)
            if len(self._lanes) > 1:
                self._reap()  # as in `_wait`

    def _close(self, lane: Lane) -> None:
        fd = lane.socket.fileno()
        self._listen(fd, 0)
        del self._lanes[fd]
        lane.socket.close()
        for pipe in lane.brought:
            if pipe != _NOT_BROUGHT:
                os.close(pipe)

    def _answer(self, lane: Lane | None, on: str, key: str, **facts: Any) -> None:
        """Tell what came of an order where it was made, if anybody still listens there."""
        if lane is not None:
            try:
                lane.socket.send(json.dumps({"on": on, "key": key, **facts}).encode() + b"\n")
            except OSError:
                pass  # it took too long
            else:
                return
        self._tell(on, key, **facts)

    def _tell(self, on: str, key: str, **facts: Any) -> None:
        if not self._deaf:
            self._outgoing += json.dumps({"on": on, "key": key, **facts}).encode() + b"\n"
            self._flush()

    def _tell_started(self, job: Job) -> None:
        """Now that it is no brief job; once for each."""
        job.tell_at = None
        self._answer(job.lane, "started", job.key, pid=job.pid, start=job.main.start)
        job.room_at = boot_time_s() + _ROOM_AFTER_S
        self._await_output(job)

    # -- output --------------------------------------------------------------------------------------------------

    def _await_output(self, job: Job) -> None:
        """From now on; what a brief job prints is moved at its end only, which saves waking for it."""
        job.move_at = None
        if job.output is not None:
            self._pipes[job.output.pipe] = job
            self._listen(job.output.pipe, select.EPOLLIN)
        self._be_due(job.due())

    def _await_no_output(self, job: Job) -> None:
        job.move_at = None
        if job.output is not None and self._pipes.pop(job.output.pipe, None) is not None:
            self._listen(job.output.pipe, 0)

    def _move_output(self, job: Job) -> None:
        assert job.output is not None
        pause_s = job.output.move()
        if pause_s == 0:
            return
        self._await_no_output(job)
        if pause_s is not None:
            job.move_at = boot_time_s() + pause_s
            self._be_due(job.move_at)

    def _finish_output(self, job: Job) -> dict[str, Any]:
        """Move the rest of a job of which nothing is left; returns what its worker is told of it."""
        if job.output is None:
            return {}
        self._await_no_output(job)
        self._try("output", job.output.finish)
        return {"disk_full": True} if job.output.disk_was_full else {}

    def _flush(self) -> None:
        # Never blocks: a frozen worker must not freeze the one that ends its jobs.
        try:
            while self._outgoing:
                self._outgoing = self._outgoing[self.control.send(self._outgoing) :]
            if self._detached and self.worker_gone:
                self._listen(self.control.fileno(), 0)
                self._deaf = True
                self.control.close()
        except BlockingIOError:
            pass
        except OSError:
            self._listen(self.control.fileno(), 0)
            self._deaf = True
            self._outgoing = b""
            self._worker_vanished()
        self._listen_to_worker()

    def _worker_vanished(self) -> None:
        if self.worker_gone:
            return
        self.worker_gone = True
        # A container outlives its worker until its lease runs out; one without a lease is left alone.
        self.watched = {key: watched for key, watched in self.watched.items() if watched.lease}
        self._listen_to_worker()
        for lane in list(self._lanes.values()):
            self._close(lane)
        if self._detached:
            self._flush()
            return
        # Not here: this is found out also while the end of one of them is told.
        self._ends_all = True
        self._be_due(0.0)

    def _end_all(self) -> None:
        self._ends_all = False
        for job in list(self.jobs.values()):
            grace_s = min(job.grace_s, AFTERMATH_S)
            if not self._try(f"job {job.key}", self._stop, job, grace_s=grace_s, why="worker"):
                self._be_due(job.due())

    # -- the next worker -----------------------------------------------------------------------------------------

    def _answer_door(self, door: socket.socket) -> None:
        """Make who knocks this guard's worker, if it asks for that."""
        try:
            guest, _ = door.accept()
        except OSError:
            return
        guest.settimeout(_GREETING_S)
        try:
            greeting = json.loads(guest.recv(1000))
            if greeting != {"do": "take", "protocol": PROTOCOL}:
                guest.sendall(json.dumps({"on": "refused", "protocol": PROTOCOL}).encode() + b"\n")
                guest.close()
                return
            jobs = [
                {
                    "key": job.key,
                    "folder": job.folder,
                    "pid": job.main.pid,
                    "start": job.main.start,
                    "log": "" if job.output is None else job.output.path,
                    "exited": job.exited,
                    "status": job.status,
                    "stopped_by": job.ended_by,
                    "kept": job.is_kept,
                }
                for job in self.jobs.values()
            ]
            fds = [] if self._lock_fd is None else [self._lock_fd]
            if fds:
                fds += [job.output.pipe for job in self.jobs.values() if job.output is not None]
            _send_all(guest, json.dumps({"on": "taken", "knows": KNOWS, "jobs": jobs}).encode() + b"\n", fds)
            peer = guest.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        except (OSError, ValueError):
            guest.close()
            return
        if not self._deaf:
            self._listen(self.control.fileno(), 0)
        self.control.close()
        self.control = guest
        guest.setblocking(False)
        pid = struct.unpack("3i", peer)[0]
        self.spared = {pid}
        self._hold_worker(pid)
        self._pulse = None
        # Until its first order this stays detached: a heir that was too slow to hear the answer costs no job.
        self.worker_gone = self._deaf = False
        self._incoming = self._outgoing = b""
        self._listen_to_worker()

    # -- orders --------------------------------------------------------------------------------------------------

    def _do_start(
        self,
        *,
        key: str,
        grace_s: float,
        argv: list[str],
        env: dict[str, str],
        cwd: str,
        log: str,
        lease: list[float] | None,
        folder: str = "",
        brief_s: float = 0.0,
        piped: bool = False,
        log_bytes: int = _LOG_BYTES,
        came: list[int] | None = None,
        lane: Lane | None = None,
    ) -> None:
        if key in self.jobs:
            raise ValueError(f"there is a job {key} already")
        pipe, printing = -1, -1
        try:
            pipe = _pipe_in(came) if piped else make_pipe()
            if lease and lease[0] <= boot_time_s():
                # Another worker may have the run by now.
                raise OSError(errno.ETIME, "its lease is over")
            printing = open_for_printing(pipe)
            marked = tree.marks(env)
            with tree.carrying(marked):
                pid = spawn(argv, env=env, cwd=cwd, output=printing)
        except Exception as error:  # noqa: BLE001 (whatever it is: who ordered it waits for an answer)
            if pipe >= 0:
                os.close(pipe)
            number = error.errno if isinstance(error, OSError) else None
            self._answer(lane, "refused", key, error=_explain(error, "".join(argv[:1]), cwd), errno=number)
            return
        finally:
            if printing >= 0:
                os.close(printing)
        job = Job(key, marked, grace_s, lease, pid=pid, folder=folder or os.path.dirname(log))
        job.output = Piped(pipe, log, limit_bytes=log_bytes)
        job.lane = lane
        self.jobs[key] = self._mains[pid] = self._by_cookie[job.cookie] = job
        if brief_s > 0:
            job.tell_at = boot_time_s() + brief_s
        else:
            self._tell_started(job)
        self._be_due(job.due())

    def _do_adopt(
        self,
        *,
        key: str,
        env: dict[str, str],
        grace_s: float,
        pid: int,
        start: int,
        lease: list[float] | None,
        stop_grace_s: float | None,
        folder: str,
        piped: bool = False,
        log: str = "",
        log_bytes: int = _LOG_BYTES,
        came: list[int] | None = None,
    ) -> None:
        """Take over a job of a guard that died: its main process is now the worker's child.

        `stop_grace_s`: the old guard was stopping it, as it was where the lease is over.
        """
        if key in self.jobs:
            return
        job = Job(key, tree.marks(env), grace_s, lease, pid=pid, folder=folder)
        if piped:
            with contextlib.suppress(OSError):
                job.output = Piped(_pipe_in(came), log, limit_bytes=log_bytes)
                job.room_at = boot_time_s()
                self._await_output(job)
        job.adopted = True
        job.main = ProcessId(pid, start)
        self.jobs[key] = job
        if stop_grace_s is not None:
            job.stopped_by = "asked"
            job.was_stopped = True
            job.kill_at = boot_time_s() + stop_grace_s
        elif lease and lease[0] <= boot_time_s():
            job.stopped_by = "lease"
            job.was_stopped = True
        self._be_due(job.due())
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            self._on_exit(job, None)
            return
        found = tree.look_up(pid)
        if found is None or found.id != job.main:
            os.close(pidfd)  # it may be a stranger's
            self._on_exit(job, None)
            return
        job.pidfd = pidfd
        self._pidfds[pidfd] = job
        self._listen(pidfd, select.EPOLLIN)

    def _do_stop(self, *, key: str, grace_s: float) -> None:
        # A job that has ended by itself by now keeps its own end, and may be forgotten with that.
        self._reap()
        job = self.jobs.get(key)
        if job is not None:
            self._stop(job, grace_s=grace_s, why="asked")

    def _do_lease(self, *, leases: dict[str, list[float] | None]) -> None:
        for key, lease in leases.items():
            if key in self.jobs:
                self.jobs[key].lease = lease
            if key in self.watched:
                self.watched[key].lease = lease
            if lease:
                self._be_due(lease[0])

    def _do_watch(
        self, *, key: str, container: str, lease: list[float] | None, more: dict[str, Any] | None = None
    ) -> None:
        self.watched[key] = Watched(container, lease, more or {})
        if lease:
            self._be_due(lease[0])

    def _do_unwatch(self, *, key: str) -> None:
        self.watched.pop(key, None)

    def _do_lane(self, *, came: list[int]) -> None:
        fd = came.pop()
        if fd == _NOT_BROUGHT:
            return  # its other end is closed
        lane = Lane(socket.socket(fileno=fd))
        lane.socket.setblocking(False)
        self._lanes[lane.socket.fileno()] = lane
        self._listen(lane.socket.fileno(), select.EPOLLIN)

    def _do_pulse(self, *, within_s: float) -> None:
        self._pulse = Pulse(within_s)

    def _do_detach(self) -> None:
        self._detached = True
        # Who leaves its jobs must know which there are.
        for job in self.jobs.values():
            if job.tell_at is not None:
                self._tell_started(job)

    # -- ending --------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            # It is written down and told before it is reaped: should this guard die in between, the worker finds that
            # the job has run.
            job = self._mains.get(ended.si_pid)
            if job is not None:
                status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
                self._try(f"end of {job.key}", self._on_exit, job, status)
                del self._mains[ended.si_pid]
            os.waitpid(ended.si_pid, 0)
            self._owners.pop(ended.si_pid, None)

    def _on_exit(self, job: Job, status: int | None) -> None:
        """`status` None: the exit of an adopted job, which was not this process's child."""
        if job.pidfd is not None:
            status = tree.exit_status(job.pidfd)
            if status is None and self._awaits_reaping(job, job.pidfd):
                return
            self._listen(job.pidfd, 0)
            del self._pidfds[job.pidfd]
            os.close(job.pidfd)
            job.pidfd = job.reaped_by = None
        job.exited = True
        job.status = status
        # Should anything from here on go wrong, the rest follows at the next look.
        job.look_at = boot_time_s()
        self._be_due(job.look_at)
        if status is not None and self._exits is not None:
            job.is_kept = self._exits.keep(job.attempt, Exit(status, job.ended_by, job.look_at))
        if job.tell_at is not None and not self._left(job):
            self._forget(job)
            facts = {"status": status, "stopped_by": job.ended_by, "kept": job.is_kept}
            self._answer(job.lane, "ended", job.key, pid=job.pid, **facts, **self._finish_output(job))
            return
        self._end_step(job)

    def _awaits_reaping(self, job: Job, pidfd: int) -> bool:
        """Whether somebody else must reap an adopted job before its exit status is known, and soon does."""
        found = tree.look_up(job.pid)
        if found is None or found.id != job.main:
            return False
        if found.ppid in self.spared and not self.worker_gone:
            return False  # its worker does, once it was told, and tells
        if job.reaped_by is None:
            job.reaped_by = boot_time_s() + _REAPED_S
            self._be_due(job.reaped_by)
            self._listen(pidfd, select.EPOLLHUP)
        return boot_time_s() < job.reaped_by

    def _forget(self, job: Job) -> None:
        del self.jobs[job.key]
        if self._by_cookie.get(job.cookie) is job:
            del self._by_cookie[job.cookie]
        if not self.jobs and not self.watched:
            self._due = math.inf

    def _enforce_watched(self, key: str, watched: Watched, now: float) -> None:
        if watched.lease and now >= watched.lease[0]:
            del self.watched[key]
            attempt = watched.more.get("attempt")
            if attempt and self._exits is not None:
                # Whoever finds the container ended must know that it did not end by itself.
                self._exits.keep(attempt, Exit(-signal.SIGKILL, "lease", now))
            self._tell("expired", key)
            self._end_container(watched, kill_at=watched.lease[1])

    def _end_container(self, watched: Watched, *, kill_at: float) -> None:
        # A process of its own: it needs the docker SDK, and an engine that hangs must not hold the guard up.
        program = (
            "import sys; sys.path.insert(0, sys.argv.pop(1)); "
            "from launch_worker.runners.end_container import main; main()"
        )
        with contextlib.suppress(OSError):
            ender = subprocess.Popen(
                [sys.executable, "-I", "-c", program, self._root, watched.container, str(kill_at)],
                stdin=subprocess.PIPE,
            )
            ender.returncode = 0  # reaped by this loop, not by Popen
            assert ender.stdin is not None
            # Not on its command line, which others see. It fits into the pipe.
            with ender.stdin:
                ender.stdin.write(json.dumps(watched.more).encode())

    def _stop(self, job: Job, *, grace_s: float, why: str) -> None:
        if job.tell_at is not None:
            self._tell_started(job)
        if not job.exited:
            job.stopped_by = job.stopped_by or why
        kill_at = boot_time_s() + grace_s
        job.kill_at = kill_at if job.kill_at is None else min(kill_at, job.kill_at)
        job.foreign_told = set()
        job.look_at = 0.0
        job.pause_s = 0.01
        self._end_step(job)

    def _end_step(self, job: Job) -> None:
        """Look at a job that is being ended, or whose main process is gone, and do the next thing."""
        now = boot_time_s()
        if (job.kill_at is None and not job.exited) or now < job.look_at or self.jobs.get(job.key) is not job:
            return
        if job.exited and not job.is_exit_told:
            job.is_exit_told = True
            if job.tell_at is not None:
                self._tell_started(job)
            facts = {"status": job.status, "stopped_by": job.ended_by, "kept": job.is_kept}
            self._tell("exited", job.key, **facts)
        left = self._left(job)
        if job.exited and not left:
            self._forget(job)
            self._tell("gone", job.key, **self._finish_output(job))
            return
        if job.kill_at is None:
            job.kill_at = now + min(job.grace_s, AFTERMATH_S)
        if now >= job.kill_at:
            self._kill(job, left)
        else:
            self._terminate(job, left)
        # A look at all processes, for nothing, should cost next to nothing.
        is_in_vain = bool(left) and job.foreign.issuperset(left)
        job.pause_s = min(2 * job.pause_s, _IN_VAIN_S if is_in_vain else 0.1)
        self._tell_foreign(job, left)
        job.look_at = now + job.pause_s
        if now < job.kill_at:
            job.look_at = min(job.look_at, job.kill_at)
        self._be_due(job.look_at)

    def _terminate(self, job: Job, left: list[ProcessId]) -> None:
        """SIGTERM once to what was there when the end of the job began.

        What begins later has the grace: a job may save what it has by starting other programs.
        """
        is_first = job.ends_since is None
        if job.ends_since is None:
            job.ends_since = math.floor(boot_time_s() * _TICKS_PER_S)
        for process in left:
            # What was gone before the signal ended by itself.
            was_there = is_first or process.start < job.ends_since
            if was_there and process not in job.termed and self._send(job, process, signal.SIGTERM):
                job.termed.add(process)
                # A stopped process would keep SIGTERM pending until its SIGKILL.
                self._send(job, process, signal.SIGCONT)

    def _kill(self, job: Job, left: list[ProcessId]) -> None:
        for process in left:
            if self._send(job, process, signal.SIGKILL):
                job.termed.add(process)
        # What those had just started comes to this process as they end, and is not waited for: processes that fork and
        # exit all the time are gone before the next look finds them.
        for _ in range(_SWEEPS):
            orphans = self._orphans_of(job)
            if not orphans or job.foreign.issuperset(orphans):
                break
            for process in orphans:
                self._send(job, process, signal.SIGKILL)

    def _send(self, job: Job, process: ProcessId, number: int) -> bool:
        """Whether it got the signal."""
        try:
            is_sent = tree.send(process, number)
        except PermissionError:
            job.foreign.add(process)
            return False
        job.foreign.discard(process)
        return is_sent

    def _tell_foreign(self, job: Job, left: list[ProcessId]) -> None:
        """What of a job cannot be ended, so that people learn why it stays."""
        stays = job.foreign.intersection(left)
        if not stays <= job.foreign_told:
            job.foreign_told = stays
            named = [[process.pid, tree.name(process.pid)] for process in sorted(stays)]
            self._tell("unendable", job.key, processes=named[:_NAMED])

    def _left(self, job: Job) -> list[ProcessId]:
        """What lives of a job. For one that has exited nothing only where that is certain."""
        orphans = self._orphans_of(job) if job.exited else None
        if orphans is not None and not orphans and not job.adopted:
            return []
        left = tree.members(job.main, marked=job.marked, known=job.seen, spare=self.spared)
        left += [process for process in orphans or () if process not in left]
        job.seen.update(left)
        return left

    def _orphans_of(self, job: Job) -> list[ProcessId] | None:
        """What lives of a job among the children of its subreaper; None where the kernel does not tell.

        Each process of a job whose main process has ended descends from one of these, which stays a child of its
        subreaper until that reaps it: so none of them, dead ones included, is a proof that nothing is left. A look at
        all processes is none, for one may exit while it is made, and what it has started is not seen.
        """
        return self._orphans_of_worker(job) if job.adopted else self._own_orphans(job)

    def _own_orphans(self, job: Job) -> list[ProcessId] | None:
        for _ in range(_SWEEPS):
            pids = self._children.pids()
            if pids is None:
                return None
            orphans = [pid for pid in pids if pid not in self._mains and self._owner(pid) is job]
            found = [tree.look_up(pid) for pid in orphans if not self._reap_orphan(pid)]
            if found:
                return [each.id for each in found if each is not None]
            if not orphans:
                return []
            # They had ended; what they had started is here by now.
        return [job.main]  # something is left, but nothing stays long enough to be named

    def _orphans_of_worker(self, job: Job) -> list[ProcessId] | None:
        """Of a job that came to the worker when its guard died. What has ended may stay there for a while."""
        number, former = tree.cookie(job.marked), None
        for _ in range(_SWEEPS):
            pids = next((tree.children(pid) for pid in self.spared), None)
            if pids is None:
                return None
            orphans = {pid for pid in pids if pid != job.pid and tree.cookie_of(pid) == number}
            found = [tree.look_up(pid) for pid in orphans]
            living = [each.id for each in found if each is not None and not each.zombie]
            if living:
                return living
            if orphans == former or not orphans:
                return []
            former = orphans
        return [job.main]

    def _owner(self, pid: int) -> Job | None:
        """Whose an orphan is that has come to this process, and may have ended."""
        owner = self._owners.get(pid)
        if owner is None:
            owner = self._by_cookie.get(tree.cookie_of(pid)) or self._owner_by_looks(pid)
            if owner is not None:
                self._owners[pid] = owner
        return owner

    def _owner_by_looks(self, pid: int) -> Job | None:
        """For one that has changed its limits."""
        found = tree.look_up(pid)
        if found is None:
            return None
        entries = tree.environ(pid)
        for job in self.jobs.values():
            if found.id in job.seen or set(job.marked) <= entries:
                return job
            leader = tree.look_up(job.pid) if found.session == job.pid else None
            # The pid of a main process that is gone may be another's by now, and that one lead a session too.
            if found.session == job.pid and (leader is None or leader.id == job.main):
                return job
        return None

    def _reap_orphan(self, pid: int) -> bool:
        """Whether it had ended."""
        if os.waitpid(pid, os.WNOHANG)[0] == 0:
            return False
        self._owners.pop(pid, None)
        return True


def _receive(peer: socket.socket, brought: list[int]) -> bytes:
    """As `recv`; descriptors that came along are added to `brought`. Raises OSError."""
    data, extra, flags, _ = peer.recvmsg(_RECV_BYTES, socket.CMSG_SPACE(_FD_BYTES), socket.MSG_CMSG_CLOEXEC)
    for _, _, fds in extra:
        brought += array.array("i", fds[: len(fds) // _FD_BYTES * _FD_BYTES])
    if flags & socket.MSG_CTRUNC:
        brought.append(_NOT_BROUGHT)
    return data


@contextlib.contextmanager
def _came_with(order: dict[str, Any], brought: list[int], *, is_lane: bool = False) -> Iterator[None]:
    """Put the descriptor that an order brings along into `came`, and close it where the order does not take it.

    Also an order that fails uses up its own: the next one must not get that of another.
    """
    if not is_lane and not order.get("piped"):
        yield
        return
    order["came"] = came = brought[:1]
    del brought[:1]
    try:
        yield
    finally:
        for fd in came:
            if fd != _NOT_BROUGHT:
                os.close(fd)


def _pipe_in(came: list[int] | None) -> int:
    """The pipe that came with an order, to be closed by whoever asks for it. Raises OSError."""
    pipe = came.pop() if came else _NOT_BROUGHT
    if pipe == _NOT_BROUGHT:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return pipe


def _send_all(peer: socket.socket, data: bytes, fds: list[int]) -> None:
    """All descriptors, in their order, before the last of the data. Raises OSError."""
    while len(fds) > _FDS_AT_ONCE:
        socket.send_fds(peer, [data[:1]], fds[:_FDS_AT_ONCE])
        data, fds = data[1:], fds[_FDS_AT_ONCE:]
    sent = socket.send_fds(peer, [data], fds)
    peer.sendall(data[sent:])


def _explain(error: Exception, program: str, cwd: str) -> str:
    if isinstance(error, FileNotFoundError):
        if not os.path.isdir(cwd):
            return f"working directory {cwd!r} does not exist on this worker"
        if os.path.exists(os.path.join(cwd, program)):
            return f"command {program!r} names an interpreter in its first line that is not there"
        return f"command {program!r} was not found on this worker"
    if isinstance(error, NotADirectoryError):
        return f"working directory {cwd!r} or a part of {program!r} is not a directory"
    if isinstance(error, PermissionError):
        if not os.access(cwd, os.X_OK):
            return f"working directory {cwd!r} may not be entered by the worker's user"
        return f"command {program!r} is not executable (permission denied)"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"command {program!r} could not be started: {reason}"


def main() -> None:
    """`guard CONTROL [DOOR LOCK ROOT FOLDER]`.

    Descriptors that it inherits (- for none), where this package lies, and the folder of its worker.
    """
    control, door, lock = (None if word == "-" else int(word) for word in (*sys.argv[1:4], "-", "-")[:3])
    for fd in (control, door, lock):
        if fd is not None:
            os.set_inheritable(fd, False)
    hide_memory()
    become_subreaper()
    guard = Guard(
        socket.socket(fileno=control),
        None if door is None else socket.socket(fileno=door),
        lock_fd=lock,
        root="".join(sys.argv[4:5]),
        folder="".join(sys.argv[5:6]),
    )
    # Not before it handles them: its worker has it start with all of them blocked.
    have_usual_signals()
    guard.run()
