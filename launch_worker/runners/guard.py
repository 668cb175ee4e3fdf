"""The guard: a small process that starts a worker's jobs, outlives the worker and ends them when it vanishes.

It is the parent and the subreaper of every job, so that whatever a job leaves behind comes back to it. It knows no
policy: it starts, stops, enforces the deadlines it was told, and tells what happened. It talks with its worker in
JSON lines over a socket; the end of that stream means that the worker is gone. Standard library only.

    worker: {"do": "start" | "adopt" | "stop" | "lease" | "watch" | "unwatch" | "detach", …}
    guard:  {"on": "started" | "refused" | "exited" | "gone" | "expired", "key": …}

Every started or adopted job is told `exited` (its main process ended) and then `gone` (its tree is empty). A container
is no child of the guard: it is only watched, and ended (`expired`) when its lease runs out.

After `detach` the jobs stay when the worker goes, each until its lease runs out. Meanwhile the guard answers at
`SOCKET` in its worker's folder: the next worker says {"do": "take"}, gets {"on": "taken", "jobs": […]} with the
folder's lock, and is the guard's worker from then on.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from typing import Any

from launch_worker.runners import tree
from launch_worker.runners.tree import ProcessId

#: What is left of a job after its main process ended by itself, or after its worker vanished, gets SIGTERM first.
AFTERMATH_S = 2.0
_PR_SET_CHILD_SUBREAPER = 36
#: In the folder of an attempt's output: how its job ended by itself, when there was no worker to tell.
EXIT_STATUS = "exit-status"
#: In a worker's folder: where its guard answers the next worker.
SOCKET = "guard.sock"
#: What guard and worker must agree on; they may be of different releases after an upgrade.
PROTOCOL = 1
_REMEMBERED_EXITS = 1000
#: A new worker that connects and says nothing for so long is hung up on: another one may wait.
_GREETING_S = 1.0


def boot_time_s() -> float:
    """Seconds since boot, suspended time included: the clock of deadlines between a worker and its guard."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def become_subreaper() -> None:
    """Orphaned descendants of this process become its children from now on, instead of init's."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Job:
    """One job's tree, from its start until nothing of it is left."""

    def __init__(self, key: str, marked: tuple[bytes, ...], grace_s: float, lease: list[float] | None) -> None:
        self.key = key
        self.marked = marked
        #: Where its output is.
        self.folder = ""
        self.grace_s = grace_s
        self.main: ProcessId | None = None
        #: Set for a job that another guard started: its exit is seen through this, and the worker reaps it.
        self.pidfd: int | None = None
        self.adopted = False
        self.exited = False
        #: Its exit status, once it is known here.
        self.status: int | None = None
        #: Processes that were seen in the tree: one that cleared its environment is known by this.
        self.seen: set[ProcessId] = set()
        self.termed: set[ProcessId] = set()
        self.kill_at: float | None = None
        self.look_at = 0.0
        self.pause_s = 0.01
        #: When its lease must be over: [SIGTERM, SIGKILL] by boot time; None for a job that may outlive its lease.
        self.lease = lease
        self.lease_enforced = False
        self.stopped_by = ""


class Watched:
    """A container that must not outlive its lease."""

    def __init__(self, container: str, lease: list[float] | None) -> None:
        self.container = container
        self.lease = lease


class Guard:
    """The loop. `control` is the worker's end of the conversation, `door` where the next worker knocks.

    `lock_fd` is the lock of the worker's folder, which goes to the next worker with the jobs.
    """

    def __init__(
        self, control: socket.socket, door: socket.socket | None = None, *, lock_fd: int | None = None, root: str = ""
    ) -> None:
        self.control = control
        control.setblocking(False)
        self._door = door
        if door is not None:
            door.setblocking(False)
        self._lock_fd = lock_fd
        #: Where this package lies, for the program that ends a container.
        self._root = root
        self.jobs: dict[str, Job] = {}
        self.watched: dict[str, Watched] = {}
        #: Never a job's process: the worker.
        self.spared = {os.getppid()}
        #: Exit statuses by the attempts' folders, the newest ones: their worker may die before it has reported them.
        self.exits: dict[str, int] = {}
        #: The worker ended the conversation, or died: no more orders are taken, and what runs is ended, unless the
        #: worker detached itself before.
        self.worker_gone = False
        self._detached = False
        #: It does not even listen any more.
        self._deaf = False
        self._incoming = b""
        self._outgoing = b""
        self._wake_read, self._wake_write = os.pipe()
        for fd in (self._wake_read, self._wake_write):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        # A handler, not SIG_IGN: an ignored signal stays ignored across exec, and jobs must get theirs.
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
            signal.signal(number, lambda *_: None)

    def run(self) -> None:
        while self.jobs or self.watched or not self.worker_gone or (self._outgoing and not self._deaf):
            self._wait()
            self._reap()
            self._enforce_leases()
            for job in list(self.jobs.values()):
                self._end_step(job)

    # -- the conversation ----------------------------------------------------------------------------------------

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        wanted = (0 if self.worker_gone else select.POLLIN) | (select.POLLOUT if self._outgoing else 0)
        if wanted and not self._deaf:
            poll.register(self.control, wanted)
        if self.worker_gone and self._door is not None:
            poll.register(self._door, select.POLLIN)
        for job in self.jobs.values():
            if job.pidfd is not None and not job.exited:
                poll.register(job.pidfd, select.POLLIN)
        times = [t for job in self.jobs.values() for t in self._times(job)]
        times += [watched.lease[0] for watched in self.watched.values() if watched.lease]
        timeout = max(0.0, min(times) - boot_time_s()) if times else None
        ready = dict(poll.poll(None if timeout is None else timeout * 1000 + 1))
        if self._wake_read in ready:
            with contextlib.suppress(BlockingIOError):
                while os.read(self._wake_read, 4096):
                    pass
        for job in list(self.jobs.values()):
            if job.pidfd in ready:
                self._on_exit(job, None)
        if not self._deaf and self.control.fileno() in ready:
            self._flush()
            if not self.worker_gone:
                self._receive()
        if self.worker_gone and self._door is not None and self._door.fileno() in ready:
            self._answer_door(self._door)

    def _times(self, job: Job) -> list[float]:
        times = []
        if job.lease and not job.lease_enforced:
            times.append(job.lease[0])
        if job.kill_at is not None or job.exited:
            times.append(job.look_at)
        return times

    def _receive(self) -> None:
        try:
            data = self.control.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._worker_vanished()
            return
        *lines, self._incoming = (self._incoming + data).split(b"\n")
        for line in lines:
            self._detached = False
            if self.worker_gone:
                return  # an order before this one could not be answered
            order = json.loads(line)
            getattr(self, f"_do_{order.pop('do')}")(**order)

    def _tell(self, on: str, key: str, **facts: Any) -> None:
        if not self._deaf:
            self._outgoing += json.dumps({"on": on, "key": key, **facts}).encode() + b"\n"
            self._flush()

    def _flush(self) -> None:
        # Never blocks: a frozen worker must not freeze the one that ends its jobs.
        try:
            while self._outgoing:
                self._outgoing = self._outgoing[self.control.send(self._outgoing) :]
            if self._detached and self.worker_gone:
                self._deaf = True
                self.control.close()
        except BlockingIOError:
            pass
        except OSError:
            self._deaf = True
            self._outgoing = b""
            self._worker_vanished()

    def _worker_vanished(self) -> None:
        if self.worker_gone:
            return
        self.worker_gone = True
        for folder, status in self.exits.items():
            _keep_exit_status(folder, status)
        # A container outlives its worker until its lease runs out; one without a lease is left alone.
        self.watched = {key: watched for key, watched in self.watched.items() if watched.lease}
        if self._detached:
            self._flush()
            return
        for job in list(self.jobs.values()):
            self._stop(job, grace_s=min(job.grace_s, AFTERMATH_S), why="worker")

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
                    "exited": job.exited,
                    "status": job.status,
                    "stopped_by": job.stopped_by if job.main in job.termed else "",
                }
                for job in self.jobs.values()
                if job.main is not None
            ]
            fds = [] if self._lock_fd is None else [self._lock_fd]
            socket.send_fds(guest, [json.dumps({"on": "taken", "jobs": jobs}).encode() + b"\n"], fds)
            peer = guest.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        except (OSError, ValueError):
            guest.close()
            return
        self.control.close()
        self.control = guest
        guest.setblocking(False)
        self.spared = {struct.unpack("3i", peer)[0]}
        # Until its first order this stays detached: a heir that was too slow to hear the answer costs no job.
        self.worker_gone = self._deaf = False
        self._incoming = self._outgoing = b""

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
    ) -> None:
        job = Job(key, tree.marks(env), grace_s, lease)
        job.folder = folder or os.path.dirname(log)
        try:
            with open(log, "ab", buffering=0) as output, tree.carrying(job.marked):
                # No preexec_fn: it costs 20 times as much as vfork.
                process = subprocess.Popen(
                    argv,
                    env=env,
                    cwd=cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self._tell("refused", key, error=_explain(error, argv[0], cwd))
            return
        process.returncode = 0  # reaped by this loop, not by Popen
        found = tree.look_up(process.pid)
        assert found is not None, "a child that nobody reaped has an entry in /proc"
        job.main = found.id
        self.jobs[key] = job
        self._tell("started", key, pid=job.main.pid, start=job.main.start)

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
    ) -> None:
        """Take over a job of a guard that died: its main process is now the worker's child.

        `stop_grace_s`: the old guard was stopping it.
        """
        job = Job(key, tree.marks(env), grace_s, lease)
        job.folder = folder
        job.adopted = True
        job.main = ProcessId(pid, start)
        self.jobs[key] = job
        if stop_grace_s is not None:
            job.stopped_by = "asked"
            job.termed.add(job.main)
            job.kill_at = boot_time_s() + stop_grace_s
        try:
            job.pidfd = os.pidfd_open(pid)
        except OSError:
            self._on_exit(job, None)
            return
        found = tree.look_up(pid)
        if found is None or found.id != job.main:
            self._on_exit(job, None)

    def _do_stop(self, *, key: str, grace_s: float) -> None:
        if key in self.jobs:
            self._reap()
            self._stop(self.jobs[key], grace_s=grace_s, why="asked")

    def _do_lease(self, *, leases: dict[str, list[float] | None]) -> None:
        for key, lease in leases.items():
            if key in self.jobs:
                self.jobs[key].lease = lease
            if key in self.watched:
                self.watched[key].lease = lease

    def _do_watch(self, *, key: str, container: str, lease: list[float] | None) -> None:
        self.watched[key] = Watched(container, lease)

    def _do_unwatch(self, *, key: str) -> None:
        self.watched.pop(key, None)

    def _do_detach(self) -> None:
        self._detached = True

    # -- ending --------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        by_pid = {job.main.pid: job for job in self.jobs.values() if job.main and job.pidfd is None}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            job = by_pid.get(pid)
            if job is not None and not job.exited:
                self._on_exit(job, os.waitstatus_to_exitcode(status))

    def _on_exit(self, job: Job, status: int | None) -> None:
        """`status` None: the exit of an adopted job, which only the worker can read."""
        job.exited = True
        job.status = status
        job.look_at = boot_time_s()
        if job.pidfd is not None:
            os.close(job.pidfd)
            job.pidfd = None
        stopped = job.stopped_by if job.main in job.termed else ""
        if status is not None and not stopped:
            self._remember_exit(job.folder, status)
        self._tell("exited", job.key, status=status, stopped_by=stopped)

    def _remember_exit(self, folder: str, status: int) -> None:
        if self.worker_gone:
            _keep_exit_status(folder, status)
            return
        self.exits[folder] = status
        if len(self.exits) > _REMEMBERED_EXITS:
            del self.exits[next(iter(self.exits))]

    def _enforce_leases(self) -> None:
        now = boot_time_s()
        for job in list(self.jobs.values()):
            # Also a job that is being stopped already, and has a longer grace than its lease.
            if job.lease and now >= job.lease[0] and not job.lease_enforced:
                job.lease_enforced = True
                self._stop(job, grace_s=max(0.0, job.lease[1] - now), why="lease")
        for key, watched in list(self.watched.items()):
            if watched.lease and now >= watched.lease[0]:
                del self.watched[key]
                self._tell("expired", key)
                self._end_container(watched.container, kill_at=watched.lease[1])

    def _end_container(self, container: str, *, kill_at: float) -> None:
        # A process of its own: it needs the docker SDK, and an engine that hangs must not hold the guard up.
        program = (
            "import sys; sys.path.insert(0, sys.argv.pop(1)); "
            "from launch_worker.runners.end_container import main; main()"
        )
        with contextlib.suppress(OSError):
            ender = subprocess.Popen(
                [sys.executable, "-I", "-c", program, self._root, container, str(kill_at)], stdin=subprocess.DEVNULL
            )
            ender.returncode = 0  # reaped by this loop, not by Popen

    def _stop(self, job: Job, *, grace_s: float, why: str) -> None:
        if not job.exited:
            job.stopped_by = job.stopped_by or why
        kill_at = boot_time_s() + grace_s
        job.kill_at = kill_at if job.kill_at is None else min(kill_at, job.kill_at)
        job.look_at = 0.0
        job.pause_s = 0.01
        self._end_step(job)

    def _end_step(self, job: Job) -> None:
        """Look at a job that is being ended, or whose main process is gone, and do the next thing."""
        now = boot_time_s()
        if (job.kill_at is None and not job.exited) or now < job.look_at:
            return
        left = self._left(job)
        if job.exited and not left:
            del self.jobs[job.key]
            self._tell("gone", job.key)
            return
        if job.kill_at is None:
            job.kill_at = now + min(job.grace_s, AFTERMATH_S)
        if now >= job.kill_at:
            for process in left:
                if tree.send(process, signal.SIGKILL):
                    job.termed.add(process)
        else:
            for process in left:
                # What was gone before the signal ended by itself.
                if process not in job.termed and tree.send(process, signal.SIGTERM):
                    job.termed.add(process)
                    # A stopped process would keep SIGTERM pending until its SIGKILL.
                    tree.send(process, signal.SIGCONT)
        job.pause_s = min(2 * job.pause_s, 0.1)
        job.look_at = now + job.pause_s
        if now < job.kill_at:
            job.look_at = min(job.look_at, job.kill_at)

    def _left(self, job: Job) -> list[ProcessId]:
        if job.exited and not (job.adopted or job.seen or job.termed or self._orphans()):
            return []
        left = tree.members(job.main, marked=job.marked, known=job.seen, spare=self.spared)
        job.seen.update(left)
        return left

    def _orphans(self) -> bool:
        """Whether anything came back to this subreaper that is no job's main process."""
        pids = tree.children(os.getpid())
        if pids is None:
            return True
        mains = {job.main.pid for job in self.jobs.values() if job.main}
        return any(pid not in mains for pid in pids)


def _keep_exit_status(folder: str, status: int) -> None:
    # A folder that is gone was reported. A full disk leaves the run Crashed.
    with contextlib.suppress(OSError), open(os.path.join(folder, EXIT_STATUS), "x") as file:
        file.write(str(status))


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
    """`guard CONTROL [DOOR LOCK ROOT]`: descriptors that it inherits (- for none), and where this package lies."""
    control, door, lock = (None if word == "-" else int(word) for word in (*sys.argv[1:4], "-", "-")[:3])
    for fd in (control, door, lock):
        if fd is not None:
            os.set_inheritable(fd, False)
    become_subreaper()
    Guard(
        socket.socket(fileno=control),
        None if door is None else socket.socket(fileno=door),
        lock_fd=lock,
        root="".join(sys.argv[4:5]),
    ).run()
