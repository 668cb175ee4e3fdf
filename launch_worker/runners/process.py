"""The process runner: jobs as subprocesses, started and ended through the worker's guard."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import launch_worker
from launch_worker.retry import Outcome
from launch_worker.runners import oom, tree
from launch_worker.runners.errors import StartError
from launch_worker.runners.guard import PROTOCOL, SOCKET, become_subreaper
from launch_worker.runners.tree import ProcessId
from launch_worker.states import RunState
from launch_worker.told import announce_stop

log = logging.getLogger("launch_worker.runner")

#: A guard that does not read its orders for so long is replaced.
_SEND_TIMEOUT_S = 10
#: A guard whose worker lives lets others knock in vain.
_TAKE_S = 1.0

#: (SIGTERM, SIGKILL) by boot time, or None: the job may outlive its lease.
Lease = tuple[float, float] | None


#: How a shell tells that its child died of SIGKILL.
_SHELL_SIGKILL = 137


@dataclass(frozen=True)
class Exited:
    """The job's main process ended. `stopped_by` tells who signalled it before: '', asked, lease or worker."""

    #: Exit code, or minus the signal's number; None when it is not known.
    status: int | None
    stopped_by: str
    #: Why it is not known; '' when it was lost together with a guard.
    problem: str = ""
    #: Its guard writes it down in the attempt's folder should the worker die.
    is_kept: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Gone:
    """Nothing of the job's tree is left."""


@dataclass
class JobHandle:
    """A started job. Its events arrive in `events`: Exited, then Gone; others may put theirs there too."""

    key: str
    order: dict[str, Any]
    events: queue.SimpleQueue[Any]
    runner: ProcessRunner
    lease: Lease = None
    main: ProcessId | None = None
    exited: Exited | None = None
    #: The grace of a stop that was asked for.
    stop_grace_s: float | None = None
    #: Its start took too long: nobody waits for it any more.
    given_up: bool = False
    #: Out of memory, so far, in this worker's memory cgroup.
    oom_kills_before: int = field(default_factory=oom.kill_count)
    reply: queue.SimpleQueue[dict[str, Any]] = field(default_factory=queue.SimpleQueue)

    @property
    def pid(self) -> int:
        assert self.main is not None
        return self.main.pid

    def announce(self, reason: str) -> None:
        """Show the job that it shall stop, in the folder where it talks with its worker."""
        announce_stop(Path(self.order["folder"]) / "talk", reason)

    def stop(self, *, grace_s: float) -> None:
        """SIGTERM to the whole tree, SIGKILL after the grace, until Gone. A second call can only shorten it."""
        self.stop_grace_s = grace_s if self.stop_grace_s is None else min(grace_s, self.stop_grace_s)
        self.runner.tell({"do": "stop", "key": self.key, "grace_s": grace_s})

    def explain(self, outcome: Outcome) -> Outcome:
        """Say "out of memory" where the kernel does; a SIGKILL alone proves nothing."""
        by_sigkill = outcome.signal == "SIGKILL" or outcome.exit_code == _SHELL_SIGKILL
        if outcome.state is not RunState.FAILED or not by_sigkill:
            return outcome
        counted = oom.kill_count() > self.oom_kills_before
        said = oom.kernel_says(self.pid) if outcome.signal == "SIGKILL" else None
        if not (counted if said is None else said):
            return outcome
        text = f"{outcome.reason}: out of memory (the kernel's OOM killer ended it)"
        return replace(outcome, reason=text, message=outcome.message.replace(outcome.reason, text))

    def leave(self) -> None:
        """Supervise it no more; the guard keeps it for the next worker."""

    def dispose(self) -> None:
        """Nothing is left of a job that is Gone."""


class ProcessRunner:
    """Owns a guard process, and replaces it when it dies. Thread-safe.

    `folder` is where the guard answers the next worker, should this one leave it its jobs; `lock_fd` is that folder's
    lock, which the guard holds too. With `control`, the conversation with a guard that another worker left
    (see `take_over`), no guard is started before that one dies.
    """

    def __init__(
        self, *, lock_fd: int | None = None, folder: Path | None = None, control: socket.socket | None = None
    ) -> None:
        self._lock_fd = lock_fd
        self._folder = folder
        self._sending = threading.Lock()
        self._handles: dict[str, JobHandle] = {}
        self._watched: dict[str, tuple[str, Lease, Callable[[], None]]] = {}
        self._closing = False
        self._control: socket.socket
        #: None for a guard that another worker started.
        self._guard: subprocess.Popen[bytes] | None = None
        become_subreaper()  # should the guard die, its jobs come back to this process
        if control is None:
            self._spawn_guard()
        else:
            self._control = control
        self._reader = threading.Thread(target=self._read, name="guard-reader", daemon=True)

    def open(self) -> ProcessRunner:
        """Begin to hear the guard; what `take_over` found must be claimed before."""
        self._reader.start()
        return self

    @property
    def guard_pid(self) -> int:
        assert self._guard is not None
        return self._guard.pid

    def start(
        self,
        argv: Sequence[str],
        *,
        key: str,
        env: Mapping[str, str],
        cwd: Path | str,
        log_path: Path,
        grace_s: float,
        lease: Lease,
        events: queue.SimpleQueue[Any],
        timeout_s: float,
    ) -> JobHandle:
        """Start a job in a session of its own, its output appended to `log_path`. Raises StartError.

        `env` must hold LAUNCH_RUN_ID and LAUNCH_TOKEN: by them the tree is found.
        """
        order = {
            "do": "start",
            "key": key,
            "grace_s": grace_s,
            "argv": list(argv),
            "env": dict(env),
            "cwd": str(cwd),
            "log": str(log_path),
            "folder": str(log_path.parent),
            "lease": lease,
        }
        handle = JobHandle(key, order, events, self, lease=lease)
        self._handles[key] = handle
        self.tell(order)
        try:
            reply = handle.reply.get(timeout=timeout_s)
        except queue.Empty:
            handle.given_up = True
            handle.stop(grace_s=0)
            raise StartError(f"the job's process did not start within {timeout_s:g} s") from None
        if reply["on"] == "refused":
            del self._handles[key]
            raise StartError(reply["error"])
        return handle

    def renew(self, leases: Mapping[str, Lease]) -> None:
        """Tell the guard the new deadlines of the leases of its jobs and of the containers that it watches."""
        known = {key: lease for key, lease in leases.items() if key in self._handles or key in self._watched}
        for key, lease in known.items():
            if key in self._handles:
                self._handles[key].lease = lease
            else:
                container, _, on_expired = self._watched[key]
                self._watched[key] = (container, lease, on_expired)
        if known:
            self.tell({"do": "lease", "leases": known})

    def watch(self, key: str, container: str, *, lease: Lease, on_expired: Callable[[], None]) -> None:
        """Have the guard end a container whose lease runs out, whatever becomes of this worker."""
        self._watched[key] = (container, lease, on_expired)
        self.tell({"do": "watch", "key": key, "container": container, "lease": lease})

    def unwatch(self, key: str) -> None:
        self._watched.pop(key, None)
        self.tell({"do": "unwatch", "key": key})

    def claim(
        self, left: LeftJob, *, env: Mapping[str, str], grace_s: float, events: queue.SimpleQueue[Any]
    ) -> JobHandle:
        """Supervise a job that the former worker left; `env` holds its marks. Before `open`."""
        handle = JobHandle(
            left.key, {"env": dict(env), "grace_s": grace_s, "folder": str(left.folder)}, events, self, main=left.main
        )
        self._handles[left.key] = handle
        if left.exited is not None:
            events.put(left.exited)
        return handle

    @property
    def is_idle(self) -> bool:
        """Whether the guard has nothing to do."""
        return not self._handles and not self._watched

    def detach(self) -> None:
        """Leave the jobs with the guard: each may go on until its lease runs out. They are not heard of any more."""
        self._closing = True
        self.tell({"do": "detach"})
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)
        # The guard hangs up once it has read that: what it told before must not be lost on the way.
        self._reader.join(_SEND_TIMEOUT_S)
        self._control.close()
        if self._guard is not None:
            self._guard.returncode = 0  # it is the next worker's from now on

    def close(self, *, timeout_s: float = 10.0) -> None:
        """Let the guard go. Jobs that still run are ended by it."""
        self._closing = True
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)
        if self._guard is not None and not any(lease for _, lease, _ in self._watched.values()):
            try:
                self._guard.wait(timeout_s)
            except subprocess.TimeoutExpired:
                log.warning("guard %d is still ending jobs", self._guard.pid)
        self._reader.join(1.0)
        self._control.close()

    def tell(self, order: dict[str, Any]) -> None:
        line = json.dumps(order).encode() + b"\n"
        # An error means that the guard is dead: the reader replaces it, and tells the new one all that is known.
        with self._sending:
            try:
                self._control.sendall(line)
            except OSError:
                # Also one that has not read for so long (its exec hangs on a dead mount): heartbeats must not wait.
                with contextlib.suppress(OSError):
                    if self._closing:
                        pass
                    elif self._guard is not None:
                        self._guard.kill()
                    else:
                        self._control.shutdown(socket.SHUT_RDWR)

    # -- inside ------------------------------------------------------------------------------------------------

    def _spawn_guard(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_TIMEOUT_S, 0))
        root = str(Path(launch_worker.__file__).parent.parent)
        program = (
            "import sys; sys.path.insert(0, sys.argv.pop(1)); from launch_worker.runners.guard import main; main()"
        )
        with theirs, _door(self._folder) as door:
            inherited = [theirs.fileno(), None if door is None else door.fileno(), self._lock_fd]
            words = ["-" if fd is None else str(fd) for fd in inherited]
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", program, root, *words, root],
                stdin=subprocess.DEVNULL,
                pass_fds=[fd for fd in inherited if fd is not None],
                start_new_session=True,
                cwd="/",
            )
        self._control = ours

    def _read(self) -> None:
        buffer = b""
        while True:
            try:
                data = self._control.recv(1 << 16)
            except OSError:
                data = b""
            if data:
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    try:
                        self._on_event(json.loads(line))
                    except Exception:
                        log.exception("guard.event_failed %.200r", line)
            elif self._closing:
                # Here too: `close` may have waited long enough for a guard that was just being replaced.
                self._control.close()
                return
            else:
                buffer = b""
                self._replace_guard()
                self._hang_up_if_closing()

    def _hang_up_if_closing(self) -> None:
        if self._closing:
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_WR)

    def _on_event(self, event: dict[str, Any]) -> None:
        if event["on"] == "expired":
            watched = self._watched.pop(event["key"], None)
            if watched is not None:
                watched[2]()
            return
        handle = self._handles.get(event["key"])
        if handle is None:
            return
        if event["on"] == "started":
            handle.main = ProcessId(event["pid"], event["start"])
            handle.reply.put(event)
        elif event["on"] == "refused":
            handle.reply.put(event)
        elif event["on"] == "exited":
            status = event["status"]
            if status is None and handle.main is not None:
                status = _reap(handle.main.pid)
            is_kept = event["status"] is not None and not event["stopped_by"]
            handle.exited = Exited(status, event["stopped_by"], is_kept=is_kept)
            handle.events.put(handle.exited)
        elif event["on"] == "gone":
            del self._handles[handle.key]
            handle.events.put(Gone())

    def _replace_guard(self) -> None:
        if self._guard is not None:
            log.error("guard.died pid=%d status=%d: starting another", self._guard.pid, self._guard.wait())
        else:
            log.error("guard.died: the one of a former worker; starting another")
        # A child that the old guard was just making shows its environment only after its exec.
        time.sleep(0.05)
        with self._sending:
            self._control.close()
            while True:
                try:
                    self._spawn_guard()
                    break
                except OSError as error:
                    log.error("guard.not_started: %s; trying again", error)
                    time.sleep(1.0)
        for key, (container, lease, _) in list(self._watched.items()):
            self.tell({"do": "watch", "key": key, "container": container, "lease": lease})
        for handle in list(self._handles.values()):
            if handle.main is None:
                found = tree.members(None, marked=tree.marks(handle.order["env"]))
                leader = next((process for process in found if _leads_session(process)), None)
                if leader is None and handle.given_up:
                    del self._handles[handle.key]
                    continue
                if leader is None:
                    self.tell(handle.order | {"lease": handle.lease})
                    continue
                handle.main = leader
                handle.reply.put({"on": "started"})
            self.tell(
                {
                    "do": "adopt",
                    "key": handle.key,
                    "env": {name: handle.order["env"][name] for name in tree.MARKS},
                    "grace_s": handle.order["grace_s"],
                    "pid": handle.main.pid,
                    "start": handle.main.start,
                    "lease": handle.lease,
                    "stop_grace_s": handle.stop_grace_s,
                    "folder": handle.order["folder"],
                }
            )


@dataclass(frozen=True)
class LeftJob:
    """A job that a former worker left with its guard."""

    key: str
    #: Of its attempt.
    folder: Path
    main: ProcessId
    #: How its main process ended meanwhile; None while it runs.
    exited: Exited | None


def take_over(folder: Path) -> tuple[ProcessRunner, list[LeftJob], int] | None:
    """Become the worker of the guard that answers in another worker's folder; None when none does.

    Returns its runner (not opened yet), its jobs, and the descriptor of the folder's lock.
    """
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    control.settimeout(_TAKE_S)
    try:
        with _short(folder) as short:
            control.connect(short)
        control.sendall(json.dumps({"do": "take", "protocol": PROTOCOL}).encode() + b"\n")
        data, fds, _, _ = socket.recv_fds(control, 1 << 20, 1)
        while not data.endswith(b"\n"):
            more = control.recv(1 << 20)
            if not more:
                raise OSError("the guard hung up")
            data += more
        answer = json.loads(data)
        if answer["on"] != "taken" or not fds:
            log.error("guard.refused folder=%s protocol=%s: this is %d", folder, answer.get("protocol"), PROTOCOL)
            control.close()
            return None
        left = [
            LeftJob(
                job["key"],
                Path(job["folder"]),
                ProcessId(job["pid"], job["start"]),
                Exited(job["status"], job["stopped_by"]) if job["exited"] else None,
            )
            for job in answer["jobs"]
        ]
    except (OSError, ValueError, KeyError):
        # Nobody answers: that worker lives, or its guard is gone.
        control.close()
        return None
    control.settimeout(None)
    control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_TIMEOUT_S, 0))
    return ProcessRunner(lock_fd=fds[0], folder=folder, control=control), left, fds[0]


@contextlib.contextmanager
def _door(folder: Path | None) -> Iterator[socket.socket | None]:
    """A socket that listens in the folder; None where there is no folder, or its file system has no sockets."""
    if folder is None:
        yield None
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        try:
            (folder / SOCKET).unlink(missing_ok=True)
            with _short(folder) as short:
                door.bind(short)
            door.listen(4)
        except OSError as error:
            log.warning("guard.no_door folder=%s: %s; its jobs cannot be handed over", folder, error)
            yield None
            return
        yield door


@contextlib.contextmanager
def _short(folder: Path) -> Iterator[str]:
    """The path of the folder's socket by a way that fits into the 108 bytes that the kernel allows."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET}"
    finally:
        os.close(fd)


def _leads_session(process: ProcessId) -> bool:
    found = tree.look_up(process.pid)
    return found is not None and found.session == process.pid


def _reap(pid: int) -> int | None:
    """The exit status of a job that came to this process when its guard died."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return None
