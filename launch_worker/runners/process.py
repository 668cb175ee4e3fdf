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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import launch_worker
from launch_worker.errors import LaunchError
from launch_worker.runners import tree
from launch_worker.runners.guard import become_subreaper
from launch_worker.runners.tree import ProcessId

log = logging.getLogger("launch_worker.runner")

#: A guard that does not read its orders for so long is replaced.
_SEND_TIMEOUT_S = 10

#: (SIGTERM, SIGKILL) by boot time, or None: the job may outlive its lease.
Lease = tuple[float, float] | None


class StartError(LaunchError):
    """The job's process could not be made; the text says why."""


@dataclass(frozen=True)
class Exited:
    """The job's main process ended. `stopped_by` tells who signalled it before: '', asked, lease or worker."""

    #: Exit code, or minus the signal's number; None when it was lost together with a guard.
    status: int | None
    stopped_by: str


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
    #: The grace of a stop that was asked for.
    stop_grace_s: float | None = None
    #: Its start took too long: nobody waits for it any more.
    given_up: bool = False
    reply: queue.SimpleQueue[dict[str, Any]] = field(default_factory=queue.SimpleQueue)

    @property
    def pid(self) -> int:
        assert self.main is not None
        return self.main.pid

    def stop(self, *, grace_s: float) -> None:
        """SIGTERM to the whole tree, SIGKILL after the grace, until Gone. A second call can only shorten it."""
        self.stop_grace_s = grace_s if self.stop_grace_s is None else min(grace_s, self.stop_grace_s)
        self.runner.tell({"do": "stop", "key": self.key, "grace_s": grace_s})


class ProcessRunner:
    """Owns the guard process of this worker, and replaces it when it dies. Thread-safe."""

    def __init__(self, *, lock_fd: int | None = None) -> None:
        self._lock_fd = lock_fd
        self._sending = threading.Lock()
        self._handles: dict[str, JobHandle] = {}
        self._closing = False
        self._control: socket.socket
        self._guard: subprocess.Popen[bytes]
        become_subreaper()  # should the guard die, its jobs come back to this process
        self._spawn_guard()
        self._reader = threading.Thread(target=self._read, name="guard-reader", daemon=True)
        self._reader.start()

    @property
    def guard_pid(self) -> int:
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
        """Tell the guard the new deadlines of the jobs' leases."""
        known = {key: lease for key, lease in leases.items() if key in self._handles}
        for key, lease in known.items():
            self._handles[key].lease = lease
        if known:
            self.tell({"do": "lease", "leases": known})

    def close(self, *, timeout_s: float = 10.0) -> None:
        """Let the guard go. Jobs that still run are ended by it."""
        self._closing = True
        self._control.shutdown(socket.SHUT_WR)
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
                with contextlib.suppress(ProcessLookupError):
                    self._guard.kill()

    # -- inside ------------------------------------------------------------------------------------------------

    def _spawn_guard(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_TIMEOUT_S, 0))
        root = str(Path(launch_worker.__file__).parent.parent)
        program = (
            "import sys; sys.path.insert(0, sys.argv.pop(1)); from launch_worker.runners.guard import main; main()"
        )
        inherited = [theirs.fileno()] + ([self._lock_fd] if self._lock_fd is not None else [])
        with theirs:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", program, root, *map(str, inherited)],
                stdin=subprocess.DEVNULL,
                pass_fds=inherited,
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
                return
            else:
                buffer = b""
                self._replace_guard()

    def _on_event(self, event: dict[str, Any]) -> None:
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
            handle.events.put(Exited(status, event["stopped_by"]))
        elif event["on"] == "gone":
            del self._handles[handle.key]
            handle.events.put(Gone())

    def _replace_guard(self) -> None:
        status = self._guard.wait()
        log.error("guard.died pid=%d status=%d: starting another", self._guard.pid, status)
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
                }
            )


def _leads_session(process: ProcessId) -> bool:
    found = tree.look_up(process.pid)
    return found is not None and found.session == process.pid


def _reap(pid: int) -> int | None:
    """The exit status of a job that came to this process when its guard died."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return None
