"""Runs the guard: a small process that starts a worker's jobs, outlives the worker and ends them when it vanishes.

The guard is the parent and the subreaper of every job, so that each process that a job leaves behind comes back to it.
It knows no policy: it starts, stops, enforces the deadlines that it was given, and reports. `protocol` has the words
between it and its worker. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from launch_worker.clock import boot_time_s
from launch_worker.runners.output import Piped, make_pipe, open_for_printing
from launch_worker.runners.process import tree
from launch_worker.runners.process.confined_spawn import User, spawn_confined, telling_of
from launch_worker.runners.process.container_leases import ContainerLeases
from launch_worker.runners.process.control_groups import find_group
from launch_worker.runners.process.descriptors import NOT_BROUGHT, came_with, pipe_in
from launch_worker.runners.process.direct_channel import DirectChannelEnd
from launch_worker.runners.process.exits import ExitFile
from launch_worker.runners.process.failsafe import Failsafe
from launch_worker.runners.process.guarded_job import GuardedJob
from launch_worker.runners.process.handover import hand_over
from launch_worker.runners.process.job_ends import AFTERMATH_S, JobEnds
from launch_worker.runners.process.job_reports import JobOutputs, JobReports
from launch_worker.runners.process.job_table import JobTable
from launch_worker.runners.process.landlock import Rules, prepare
from launch_worker.runners.process.own_process import become_subreaper, have_usual_signals, hide_memory
from launch_worker.runners.process.poller import Poller
from launch_worker.runners.process.protocol import KNOWS, Order, decode
from launch_worker.runners.process.sandboxed import giving
from launch_worker.runners.process.spawn import explain_refusal, spawn
from launch_worker.runners.process.tree import ProcessId
from launch_worker.runners.process.worker_link import WorkerLink

#: Orders that say nothing about jobs: they do not undo a `detach` before them.
_OF_THE_PULSE = ("pulse", "alive")
#: Seconds until the next look at a job, after a look at it failed.
_AGAIN_S = 0.5
#: Bytes of the newest output that a file keeps, for a worker of an older release, which does not say it.
_LOG_BYTES = 64 << 20


class Guard:
    """The loop, and the orders.

    `control` is the worker's end of the conversation; at `takeover` the next worker asks for the jobs. `lock_fd` is the
    lock of the worker's `folder`, which goes to the next worker with the jobs. `root` is where this package lies.

    A failure of one order or of one job is printed, and ends neither this process nor the other jobs (`Failsafe`).
    """

    def __init__(
        self,
        control: socket.socket,
        takeover: socket.socket | None = None,
        *,
        lock_fd: int | None = None,
        root: str = "",
        folder: str = "",
    ) -> None:
        self._lock_fd = lock_fd
        self._failsafe = Failsafe()
        self.poller = Poller()
        self.worker = WorkerLink(control, takeover, self.poller, on_gone=self._on_worker_gone)
        self._exits: ExitFile | None = None
        if folder:
            self._failsafe.call("file of the exits", self._open_exits, folder)
        self.jobs = JobTable(self.worker.pid)
        self._containers = ContainerLeases(root, self.worker, self.poller, self._failsafe, exits=self._exits)
        self._outputs = JobOutputs(self.poller, self._failsafe)
        self._reports = JobReports(self.worker, self._outputs)
        self._ends = JobEnds(self.jobs, self.worker, self._reports, self.poller, self._failsafe, exits=self._exits)
        #: The worker is gone, and its jobs must be ended.
        self._ends_all = False
        self._orders: dict[Order, Callable[..., None]] = {
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
        # A handler, not SIG_IGN: an ignored signal stays ignored across exec, and jobs must get theirs.
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
            signal.signal(number, lambda *_: None)
        self.worker.tell("hello", "", knows=KNOWS)

    def _open_exits(self, folder: str) -> None:
        self._exits = ExitFile(folder)

    # -- the loop --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        while self.jobs or self._containers or not self.worker.is_over:
            self._failsafe.call("a turn", self._turn)
        self.jobs.close()

    def _turn(self) -> None:
        self._wait()
        if not self.jobs and not self._containers and not self._ends_all:
            self.poller.due = math.inf
        now = boot_time_s()
        if self.poller.due <= now:
            self.look_around()
        if self._pulse_due() <= now:
            self.worker.look_at_pulse()

    def _wait(self) -> None:
        """Wait until something happens or is due, and serve what has happened."""
        ready, is_signalled = self.poller.wait(min(self.poller.due, self._pulse_due()))
        if is_signalled:
            # Before there is more to do: a process that is being started blocks this one until its exec.
            self._ends.reap()
        self._ends.note_exits(ready)
        if self.worker.is_ready(ready):
            self.worker.flush()
            if not self.worker.is_gone:
                self._receive()
        for fd in ready:
            if fd in self.worker.channels:
                self._receive_on(self.worker.channels[fd])
        takeover = self.worker.takeover
        if takeover is not None and takeover.fileno() in ready:
            self._hand_over(takeover)
        self._outputs.move_ready(ready)

    def _pulse_due(self) -> float:
        return self.worker.pulse_due(has_work=bool(self.jobs or self._containers))

    def look_around(self) -> None:
        """Do what is due."""
        self.poller.due = math.inf
        if self._ends_all:
            self._end_all()
        now = boot_time_s()
        for job in list(self.jobs.by_key.values()):
            if not self._failsafe.call(f"job {job.key}", self._look_at, job, now):
                job.look_at = now + _AGAIN_S
            if self.jobs.has(job):
                self.poller.be_due(job.due())
        self._containers.look_around(now)

    def _look_at(self, job: GuardedJob, now: float) -> None:
        if job.report_start_at is not None and now >= job.report_start_at:
            self._reports.started(job)
        self._outputs.look_at(job, now)
        self._ends.look_at(job, now)

    def _on_worker_gone(self) -> None:
        # A container outlives its worker until its lease runs out.
        self._containers.drop_unleased()
        if not self.worker.is_detached:
            # Not at once: this is called also while the end of a job is being reported.
            self._ends_all = True
            self.poller.be_due(0.0)

    def _end_all(self) -> None:
        self._ends_all = False
        for job in list(self.jobs.by_key.values()):
            grace_s = min(job.grace_s, AFTERMATH_S)
            if not self._failsafe.call(f"job {job.key}", self._ends.stop, job, grace_s=grace_s, why="worker"):
                self.poller.be_due(job.due())

    def _hand_over(self, takeover: socket.socket) -> None:
        taken = hand_over(takeover, self.jobs, lock_fd=self._lock_fd)
        if taken is not None:
            self.worker.pass_to(*taken)
            self.jobs.worker_pid = self.worker.pid

    # -- orders ----------------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        if not self.worker.receive():
            return
        # Orders in a channel are older, and what has just come may be about their jobs.
        for channel in list(self.worker.channels.values()):
            if not self.worker.is_gone:
                self._receive_on(channel)
        lines = self.worker.take_lines()
        for line in lines:
            if self.worker.is_gone:
                return  # the answer to an order before this one could not be sent
            self._failsafe.call("an order", self.obey, line)
            if len(lines) > 1:
                self._ends.reap()  # as in `_wait`

    def _receive_on(self, channel: DirectChannelEnd) -> None:
        for line in self.worker.receive_on(channel):
            if self.worker.is_gone:
                return
            self._failsafe.call("an order", self._obey_on, channel, line)
            if len(self.worker.channels) > 1:
                self._ends.reap()  # as in `_wait`

    def obey(self, line: bytes) -> None:
        order = decode(line)
        do = order.pop("do")
        if do not in _OF_THE_PULSE:
            self.worker.is_detached = False
        with came_with(order, self.worker.brought, is_channel=do == "lane"):
            self._orders[do](**order)

    def _obey_on(self, channel: DirectChannelEnd, line: bytes) -> None:
        order = decode(line)
        del order["do"]
        with came_with(order, channel.brought):
            self._do_start(**order, channel=channel)

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
        start_by: float = math.inf,
        stop_signal: int = signal.SIGTERM,
        stops_main: bool = False,
        oom_kills: int | None = None,
        sandboxed: bool = False,
        inside: dict[str, str] | None = None,
        landlock: Rules | None = None,
        confined: dict[str, Any] | None = None,
        came: list[int] | None = None,
        channel: DirectChannelEnd | None = None,
    ) -> None:
        if key in self.jobs.by_key:
            raise ValueError(f"there is a job {key} already")
        pipe, printing, group, pid = -1, -1, None, 0
        folder = folder or os.path.dirname(log)
        try:
            pipe = pipe_in(came) if piped else make_pipe()
            if min(start_by, lease[0] if lease else math.inf) <= boot_time_s():
                # Another worker may have the run by now.
                raise OSError(errno.ETIME, "its lease is over")
            printing = open_for_printing(pipe)
            marked = tree.marks(env)
            if confined is not None:
                with telling_of("its control group could not be made"):
                    group = self.jobs.make_group(os.path.basename(folder), confined["limits"])
            with tree.carrying(marked), giving(inside, argv) as command:
                if confined is None:
                    pid = spawn(command, env=env, cwd=cwd, output=printing, sandboxed=sandboxed, landlock=landlock)
                else:
                    user = confined["user"] and User(*confined["user"])
                    pid = spawn_confined(
                        command, env=env, cwd=cwd, output=printing, group=group, user=user, landlock=landlock
                    )
        except Exception as error:  # noqa: BLE001 (whatever it is: who ordered it waits for an answer)
            if pipe >= 0:
                os.close(pipe)
            number = error.errno if isinstance(error, OSError) else None
            who = "" if confined is None else confined["account"]
            reason = explain_refusal(error, "".join(argv[:1]), cwd, user=who)
            self.worker.answer(channel, "refused", key, error=reason, errno=number)
            return
        finally:
            if printing >= 0:
                os.close(printing)
            if not pid and group is not None:
                self.jobs.remove_group(group)
        job = GuardedJob(key, marked, grace_s, lease, pid=pid, folder=folder)
        job.group = group
        job.output = Piped(pipe, log, limit_bytes=log_bytes)
        job.stop_signal, job.stops_main = stop_signal, stops_main
        job.oom_kills = oom_kills
        job.is_sandboxed = sandboxed
        job.channel = channel
        self.jobs.add_started(job)
        if brief_s > 0:
            job.report_start_at = boot_time_s() + brief_s
        else:
            self._reports.started(job)
        self.poller.be_due(job.due())
        if landlock is not None and confined is None:
            prepare(landlock)

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
        stop_signal: int = signal.SIGTERM,
        stops_main: bool = False,
        oom_kills: int | None = None,
        sandboxed: bool = False,
        came: list[int] | None = None,
    ) -> None:
        """Take over a job of a guard that died: its main process is now the worker's child.

        `stop_grace_s` is the grace of a stop that the worker asked for before. A job whose lease is over was being
        stopped too.
        """
        if key in self.jobs.by_key:
            return
        job = GuardedJob(key, tree.marks(env), grace_s, lease, pid=pid, folder=folder)
        if piped:
            with contextlib.suppress(OSError):
                job.output = Piped(pipe_in(came), log, limit_bytes=log_bytes)
                job.room_at = boot_time_s()
                self._outputs.follow(job)
        job.is_adopted = True
        job.is_sandboxed = sandboxed
        job.group = find_group(job.attempt)
        job.stop_signal, job.stops_main = stop_signal, stops_main
        job.oom_kills = oom_kills
        job.main = ProcessId(pid, start)
        self.jobs.add_adopted(job)
        if stop_grace_s is not None:
            job.stopped_by = "asked"
            job.was_stopped = True
            job.kill_at = boot_time_s() + stop_grace_s
        elif lease and lease[0] <= boot_time_s():
            job.stopped_by = "lease"
            job.was_stopped = True
        self.poller.be_due(job.due())
        self._ends.watch_adopted(job)

    def _do_stop(self, *, key: str, grace_s: float) -> None:
        # A job that has ended by itself by now keeps its own end, and may be forgotten with that.
        self._ends.reap()
        job = self.jobs.by_key.get(key)
        if job is not None:
            self._ends.stop(job, grace_s=grace_s, why="asked")

    def _do_lease(self, *, leases: dict[str, list[float] | None]) -> None:
        for key, lease in leases.items():
            if key in self.jobs.by_key:
                self.jobs.by_key[key].lease = lease
            self._containers.renew(key, lease)
            if lease:
                self.poller.be_due(lease[0])

    def _do_watch(
        self, *, key: str, container: str, lease: list[float] | None, more: dict[str, Any] | None = None
    ) -> None:
        self._containers.watch(key, container, lease, more)

    def _do_unwatch(self, *, key: str) -> None:
        self._containers.unwatch(key)

    def _do_lane(self, *, came: list[int]) -> None:
        fd = came.pop()
        if fd != NOT_BROUGHT:  # else the worker's end is closed already
            self.worker.add_channel(fd)

    def _do_pulse(self, *, within_s: float) -> None:
        self.worker.expect_pulse(within_s)

    def _do_detach(self) -> None:
        self.worker.is_detached = True
        # A worker that leaves its jobs must know which jobs there are.
        for job in self.jobs.by_key.values():
            if job.report_start_at is not None:
                self._reports.started(job)


def main() -> None:
    """`guard CONTROL [TAKEOVER LOCK ROOT FOLDER]`.

    Descriptors that the guard inherits (- for none), the folder in which this package lies, and the worker's folder.
    """
    control, takeover, lock = (None if word == "-" else int(word) for word in (*sys.argv[1:4], "-", "-")[:3])
    for fd in (control, takeover, lock):
        if fd is not None:
            os.set_inheritable(fd, False)
    hide_memory()
    become_subreaper()
    guard = Guard(
        socket.socket(fileno=control),
        None if takeover is None else socket.socket(fileno=takeover),
        lock_fd=lock,
        root="".join(sys.argv[4:5]),
        folder="".join(sys.argv[5:6]),
    )
    # Not before it handles them: its worker has it start with all of them blocked.
    have_usual_signals()
    guard.run()
