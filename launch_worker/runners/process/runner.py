"""The process runner: jobs as subprocesses, started and ended through the worker's guard."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import queue
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from launch_worker.clock import boot_time_s
from launch_worker.model.outcome import Outcome
from launch_worker.model.states import RunState
from launch_worker.model.units import format_duration
from launch_worker.runners.errors import OF_THE_MACHINE, LeaseLostError, StartError
from launch_worker.runners.job import Exited, Gone, Lease
from launch_worker.runners.output import bytes_in, make_pipe
from launch_worker.runners.process import oom, orphans, tree
from launch_worker.runners.process.exits import Exit, keep_exit
from launch_worker.runners.process.guard import PROTOCOL, SOCKET
from launch_worker.runners.process.own_process import become_subreaper
from launch_worker.runners.process.tree import Process, ProcessId
from launch_worker.runners.talk_folder import announce_stop

log = logging.getLogger("launch_worker.runner")

#: A guard that does not read its orders for so long is replaced.
_SEND_TIMEOUT_S = 10
#: A guard of an older release says no hello.
_HELLO_S = 5.0
#: How long is waited for what a job that goes on has printed by now.
_CATCH_UP_S = 0.5
#: A guard whose worker lives lets others knock in vain.
_TAKE_S = 1.0


_ANSWER_BYTES = 1 << 14
_DISK_WAS_FULL = "the worker's disk was full while it ran: output may be missing"
#: A timeout of a socket that is none.
_LEAST_S = 0.001
#: So many lanes are kept at most; threads beyond go the long way.
_MAX_LANES = 64
#: The kernel takes no more descriptors in one message.
_MAX_FDS = 253
#: Start time of a process that was over before anybody looked: it is no living one's.
_ENDED = 0
#: How a shell tells that its child died of SIGKILL.
_SHELL_SIGKILL = 137


#: What a guard gets of its worker's environment, no secrets among it. Programs are found and libraries are loaded by
#: some of these, the container engine is by others; by LAUNCH_… a person, or the worker of which this worker is itself
#: a job, tells whose guard it is.
_OF_THE_GUARD = re.compile(
    "PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|LC_.*|TZ|TMPDIR|XDG_RUNTIME_DIR|LD_.*|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|"
    "DOCKER_(HOST|TLS_VERIFY|CERT_PATH|CONFIG|CONTEXT|API_VERSION)|SSH_AUTH_SOCK|((HTTPS?|NO|ALL)_PROXY)|"
    "((https?|no|all)_proxy)|LAUNCH_(WORK_DIR|RUN_ID|TOKEN)"
)


@dataclass(eq=False)
class Lane:
    """A thread's own conversation with one guard: it orders a job and hears what came of that, no thread in between."""

    socket: socket.socket
    #: Which guard of this runner it leads to.
    generation: int
    #: A socket with a timeout waits by poll(): a plain recv() would be woken when the guard takes the order, too.
    timeout_s: float = 0.0

    def __post_init__(self) -> None:
        self.socket.setblocking(False)

    def order(self, line: bytes, fds: Sequence[int]) -> None:
        """Raises OSError."""
        # `write` as `send`, which would look first whether there is room
        sent = socket.send_fds(self.socket, [line], fds) if fds else os.write(self.socket.fileno(), line)
        if sent < len(line):
            self.socket.settimeout(_SEND_TIMEOUT_S)
            self.timeout_s = _SEND_TIMEOUT_S
            try:
                self.socket.sendall(line[sent:])
            except TimeoutError:
                raise BrokenPipeError from None

    def hear(self, *, timeout_s: float) -> dict[str, Any] | None:
        """What came of it; None when the guard is gone. Raises TimeoutError: it is told elsewhere from then on."""
        timeout_s = max(timeout_s, _LEAST_S)
        if timeout_s != self.timeout_s:
            self.socket.settimeout(timeout_s)
            self.timeout_s = timeout_s
        try:
            answer = self._receive()
        except TimeoutError:
            self.socket.shutdown(socket.SHUT_RD)
            answer = self._receive()  # what was told at the last moment
            if not answer:
                raise
        except OSError:
            return None
        return json.loads(answer) if answer.endswith(b"\n") else None

    def _receive(self) -> bytes:
        answer = self.socket.recv(_ANSWER_BYTES)
        while answer and not answer.endswith(b"\n") and (more := self.socket.recv(_ANSWER_BYTES)):
            answer += more
        return answer


@dataclass
class Watched:
    """A container that the guard watches."""

    container: str
    lease: Lease
    on_expired: Callable[[float], None]
    more: dict[str, Any]

    def order(self, key: str) -> dict[str, Any]:
        return {"do": "watch", "key": key, "container": self.container, "lease": self.lease, "more": self.more}


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
    #: Where the guard was asked for it and has not answered yet: whether it was heard is that thread's to find out.
    lane: Lane | None = None
    #: The read end of what it prints into, for the next guard; None where a job of an older guard prints into its file.
    pipe: int | None = None
    #: Which of its processes nobody could end; '' for none.
    unendable: str = ""
    #: Why it shall end; '' before.
    asked: str = ""
    #: Output had to be given up because of that.
    disk_was_full: bool = False
    #: Which guard of its runner knows of it.
    generation: int = 0
    #: What the kernel had told of memory that ran out.
    oom_before: bytes = field(default_factory=lambda: oom.own_counter().told())
    reply: queue.SimpleQueue[dict[str, Any]] = field(default_factory=queue.SimpleQueue)
    #: Tells people a sentence about it.
    enter: Callable[[str, str], None] | None = None

    @property
    def pid(self) -> int:
        assert self.main is not None
        return self.main.pid

    @property
    def trouble(self) -> str:
        """Nothing stands between a guard and its jobs."""
        return ""

    def report_to(self, enter: Callable[[str, str], None], on_started: Callable[[int], None]) -> None:
        """It runs, as all jobs that the guard has started."""
        self.enter = enter
        on_started(self.pid)
        self._report_unendable()

    def note_unendable(self, processes: list[tuple[int, str]]) -> None:
        """A program that is setuid, as `sudo`, runs as somebody whose processes the worker may not signal."""
        named = ", ".join(f"{pid} ({name})" for pid, name in processes)
        one = len(processes) == 1
        self.unendable = (
            f"{'process' if one else 'processes'} {named} {'belongs' if one else 'belong'} to another user and cannot "
            "be ended by this worker"
        )
        # A thread: who hears the guard must not wait for Redis.
        threading.Thread(target=self._report_unendable, name=f"unendable-{self.key}", daemon=True).start()

    def _report_unendable(self) -> None:
        if self.unendable and self.enter is not None and self.key in self.runner:
            try:
                self.enter("end", f"{self.asked}; {self.unendable}" if self.asked else self.unendable)
            except Exception:  # what people are told decides nothing about the job
                log.exception("job.not_told")

    def announce(self, reason: str) -> None:
        """Show the job that it shall stop, in the folder where it talks with its worker."""
        self.asked = reason
        announce_stop(Path(self.order["folder"]) / "talk", reason)

    def stop(self, *, grace_s: float) -> None:
        """SIGTERM to the whole tree, SIGKILL after the grace, until Gone. A second call can only shorten it."""
        self.stop_grace_s = grace_s if self.stop_grace_s is None else min(grace_s, self.stop_grace_s)
        self.runner.tell({"do": "stop", "key": self.key, "grace_s": grace_s})

    @property
    def bounds_output(self) -> bool:
        """Whether somebody sees to it that its output's file does not grow without end."""
        return self.pipe is not None

    def catch_up(self) -> None:
        """Wait a moment until what it has printed by now is in its file."""
        deadline = time.monotonic() + _CATCH_UP_S
        with contextlib.suppress(OSError):  # it is gone, and so is its pipe
            while self.pipe is not None and bytes_in(self.pipe) and time.monotonic() < deadline:
                time.sleep(_LEAST_S)

    def explain(self, outcome: Outcome) -> Outcome:
        """Say what is known of its end beside its exit status."""
        outcome = self._explain_kill(outcome)
        if self.unendable and self.unendable not in outcome.reason:
            text = f"{self.unendable}: it was waited for"
            outcome = replace(
                outcome,
                reason=f"{outcome.reason}; {text}" if outcome.reason else text,
                message=f"{outcome.message}\n{text}" if outcome.message else "",
            )
        if self.disk_was_full:
            outcome = replace(outcome, message=f"{outcome.message}\n{_DISK_WAS_FULL}".strip())
        return outcome

    def _explain_kill(self, outcome: Outcome) -> Outcome:
        """Say "out of memory" where the kernel does; a SIGKILL alone proves nothing."""
        by_sigkill = outcome.signal == "SIGKILL" or outcome.exit_code == _SHELL_SIGKILL
        if outcome.state is not RunState.FAILED or not by_sigkill:
            return outcome
        counted = oom.own_counter().has_risen(self.oom_before)
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
    lock, which the guard holds too. The file of a job's output keeps at most about twice `log_file_bytes`. With
    `control`, the conversation with a guard that another worker left (see `take_over`), no guard is started before that
    one dies. With `hung_after_s` the guard kills this process when it does not answer for so long.
    """

    def __init__(
        self,
        *,
        lock_fd: int | None = None,
        folder: Path | None = None,
        control: socket.socket | None = None,
        log_file_bytes: int = 64 << 20,
        hung_after_s: float | None = None,
        knows_pulse: bool = False,
    ) -> None:
        """`knows_pulse`: the guard of `control` said so."""
        self._hung_after_s = hung_after_s
        self._knows_pulse = knows_pulse
        self._lock_fd = lock_fd
        self._log_file_bytes = log_file_bytes
        self._folder = folder
        self._sending = threading.Lock()
        self._handles: dict[str, JobHandle] = {}
        self._watched: dict[str, Watched] = {}
        self._closing = False
        #: What the guard said that it knows; nothing for one of an older release.
        self._knows: tuple[str, ...] = ()
        #: Set once it has.
        self._greeted = threading.Event()
        #: Set unless the guard is being replaced: it was told of all jobs.
        self._knows_all = threading.Event()
        self._knows_all.set()
        #: Counts the guards: each time one is replaced.
        self._generation = 0
        #: Lanes to the present guard that nobody uses now, and how many there are in all.
        self._lanes: list[Lane] = []
        self._num_lanes = 0
        self._control: socket.socket
        #: None for a guard that another worker started.
        self._guard: subprocess.Popen[bytes] | None = None
        become_subreaper()  # should the guard die, its jobs come back to this process
        _runners.add(self)
        if control is None:
            self._spawn_guard()
        else:
            self._control = control
            self._greeted.set()  # a guard says that to its first worker only
        self._reader = threading.Thread(target=self._read, name="guard-reader", daemon=True)

    def open(self) -> ProcessRunner:
        """Begin to hear the guard; what `take_over` found must be claimed before."""
        self._reader.start()
        if self._knows_pulse:
            self._announce_pulse()
        return self

    def _announce_pulse(self) -> None:
        if self._hung_after_s is not None:
            self.tell({"do": "pulse", "within_s": self._hung_after_s})

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
        brief_s: float = 0.0,
    ) -> JobHandle:
        """Start a job in a session of its own; its output goes to the file `log_path`. Raises StartError, OSError.

        `env` must hold LAUNCH_RUN_ID and LAUNCH_TOKEN: by them the tree is found. With `brief_s` this may wait for so
        long whether the job is over by then, which is cheaper to hear of at once: its events are there already.
        """
        output = str(log_path)
        order = {
            "do": "start",
            "key": key,
            "grace_s": grace_s,
            "argv": list(argv),
            "env": dict(env),
            "cwd": str(cwd),
            "log": output,
            "folder": os.path.dirname(output),
            "lease": lease,
        }
        self._greeted.wait(_HELLO_S)
        handle = JobHandle(key, order, events, self, lease=lease)
        if "pipes" in self._knows:
            handle.pipe = make_pipe()
        # Both at once: a guard that is replaced before knows nothing of it, the next one is told.
        with self._sending:
            self._handles[key] = handle
            handle.generation = self._generation
            line, fds = self._start_line(handle, brief_s=brief_s)
            handle.lane = lane = self._take_lane()
            if lane is None:
                self._send(line, fds)
        deadline = time.monotonic() + timeout_s
        try:
            told = None if lane is None else self._ask(handle, lane, line, fds, timeout_s=timeout_s)
            if told is None:
                told = handle.reply.get(timeout=max(_LEAST_S, deadline - time.monotonic()))
        except (TimeoutError, queue.Empty):
            handle.given_up = True
            self._carry_over(handle)
            handle.stop(grace_s=0)
            raise StartError(f"the job's process did not start within {format_duration(timeout_s)}") from None
        if told["on"] == "refused" and told.get("errno") == errno.ETIME:
            raise LeaseLostError("the worker could not renew the lease before the job was started")
        if told["on"] == "refused":
            raise StartError(told["error"], worker_fault=told.get("errno") in OF_THE_MACHINE)
        return handle

    def _start_line(self, handle: JobHandle, *, brief_s: float = 0.0) -> tuple[bytes, list[int]]:
        """The order for the present guard, by what that knows, and the descriptors that go with it."""
        more: dict[str, Any] = {"lease": handle.lease}
        fds = []
        if brief_s > 0 and "brief" in self._knows:
            more["brief_s"] = brief_s
        if handle.pipe is not None and "pipes" in self._knows:
            more |= {"piped": True, "log_bytes": self._log_file_bytes}
            fds = [handle.pipe]
        return _line(handle.order | more), fds

    def awaits(self, process: Process) -> bool:
        """Whether it is the main process of a job whose exit status this runner is going to read."""
        for handle in list(self._handles.values()):
            if handle.main == process.id:
                return True
            is_leader = process.session == process.id.pid
            number = tree.cookie(tree.marks(handle.order["env"]))
            if handle.main is None and is_leader and tree.has_cookie(process.id.pid, number):
                return True
        return False

    def renew(self, leases: Mapping[str, Lease]) -> None:
        """Tell the guard the new deadlines of the leases of its jobs and of the containers that it watches."""
        known = {key: lease for key, lease in leases.items() if key in self._handles or key in self._watched}
        for key, lease in known.items():
            if key in self._handles:
                self._handles[key].lease = lease
            else:
                self._watched[key].lease = lease
        if known:
            self.tell({"do": "lease", "leases": known})

    def watch(
        self, key: str, container: str, *, lease: Lease, on_expired: Callable[[float], None], more: Mapping[str, Any]
    ) -> None:
        """Have the guard end a container whose lease runs out, whatever becomes of this worker.

        `on_expired` gets the boot time at which it is killed; `more` is what `end_container` needs to know of it.
        """
        self._watched[key] = watched = Watched(container, lease, on_expired, dict(more))
        self.tell(watched.order(key))

    def unwatch(self, key: str) -> None:
        self._watched.pop(key, None)
        self.tell({"do": "unwatch", "key": key})

    def claim(
        self, left: LeftJob, *, env: Mapping[str, str], grace_s: float, events: queue.SimpleQueue[Any]
    ) -> JobHandle:
        """Supervise a job that the former worker left; `env` holds its marks. Before `open`."""
        order = {"env": dict(env), "grace_s": grace_s, "folder": str(left.folder), "log": left.log}
        handle = JobHandle(left.key, order, events, self, main=left.main, pipe=left.pipe)
        handle.generation = self._generation
        self._handles[left.key] = handle
        if left.exited is not None:
            handle.exited = left.exited
            events.put(left.exited)
        return handle

    def __contains__(self, key: object) -> bool:
        """Whether something of this job may be left."""
        return key in self._handles

    @property
    def is_idle(self) -> bool:
        """Whether the guard has nothing to do."""
        return not self._handles and not self._watched

    def detach(self) -> None:
        """Leave the jobs with the guard: each may go on until its lease runs out. They are not heard of any more."""
        # A guard that has just replaced another one must know of all jobs first.
        self._knows_all.wait(_SEND_TIMEOUT_S)
        self._closing = True
        self.tell({"do": "detach"})
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)
        # The guard hangs up once it has read that: what it told before must not be lost on the way.
        self._reader.join(_SEND_TIMEOUT_S)
        self._close_all()
        if self._guard is not None:
            self._guard.returncode = 0  # it is the next worker's from now on

    def close(self, *, timeout_s: float = 10.0) -> None:
        """Let the guard go. Jobs that still run are ended by it."""
        self._closing = True
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)
        if self._guard is not None and not any(watched.lease for watched in self._watched.values()):
            try:
                self._guard.wait(timeout_s)
            except subprocess.TimeoutExpired:
                log.warning("guard %d is still ending jobs", self._guard.pid)
        self._reader.join(1.0)
        self._close_all()

    def _close_all(self) -> None:
        with self._sending:
            lanes, self._lanes = self._lanes, []
        for lane in lanes:
            lane.socket.close()
        self._control.close()
        for handle in list(self._handles.values()):
            _close_pipe(handle)

    def tell(self, order: dict[str, Any]) -> None:
        line = _line(order)
        with self._sending:
            self._send(line)

    # -- inside ------------------------------------------------------------------------------------------------

    def _take_lane(self) -> Lane | None:
        """With `_sending` held; None where there is none to be had."""
        if self._lanes:
            return self._lanes.pop()
        if "lanes" not in self._knows or self._num_lanes >= _MAX_LANES or self._closing:
            return None
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._control, [_line({"do": "lane"})], [theirs.fileno()])
            except OSError:
                ours.close()
                return None
        self._num_lanes += 1
        return Lane(ours, self._generation)

    def _ask(
        self, handle: JobHandle, lane: Lane, line: bytes, fds: Sequence[int], *, timeout_s: float
    ) -> dict[str, Any] | None:
        """What came of the order; None when its guard died before it told. Raises TimeoutError."""
        told, is_late = None, False
        try:
            lane.order(line, fds)
            told = lane.hear(timeout_s=timeout_s)
        except TimeoutError:
            is_late = True
        except OSError:
            pass
        with self._sending:
            handle.lane = None
            if told is not None:
                self._heed(handle, told)
            is_current = lane.generation == self._generation and not self._closing
            if told is not None and is_current:
                self._lanes.append(lane)
                return told
            if is_current:
                self._num_lanes -= 1
                if not is_late:
                    self._end_guard()  # it is dead already, or does not read, or has no room for a lane
        lane.socket.close()
        if is_late:
            raise TimeoutError
        # Who replaced its guard meanwhile left it to this thread.
        self._carry_over(handle)
        return told

    def _send(self, line: bytes, fds: Sequence[int] = ()) -> None:
        """With `_sending` held."""
        # An error means that the guard is dead: the reader replaces it, and tells the new one all that is known.
        try:
            sent = socket.send_fds(self._control, [line], fds) if fds else 0
            self._control.sendall(line[sent:])
        except OSError:
            self._end_guard()

    def _end_guard(self) -> None:
        # Also one that has not read for so long (its exec hangs on a dead mount): heartbeats must not wait.
        with contextlib.suppress(OSError):
            if self._closing:
                pass
            elif self._guard is not None:
                self._guard.kill()
            else:
                self._control.shutdown(socket.SHUT_RDWR)

    def _spawn_guard(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_TIMEOUT_S, 0))
        root = str(Path(__file__).parents[3])
        program = (
            "import sys; sys.path.insert(0, sys.argv.pop(1)); "
            "from launch_worker.runners.process.guard import main; main()"
        )
        with theirs, _door(self._folder) as door:
            inherited = [theirs.fileno(), None if door is None else door.fileno(), self._lock_fd]
            words = ["-" if fd is None else str(fd) for fd in inherited]
            folder = "" if self._folder is None else str(self._folder)
            # It begins with all signals blocked, as this thread has them meanwhile, until it can handle them.
            unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            try:
                self._guard = orphans.start(
                    [sys.executable, "-I", "-S", "-c", program, root, *words, root, folder],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[fd for fd in inherited if fd is not None],
                    cwd="/",
                    env={name: value for name, value in os.environ.items() if _OF_THE_GUARD.fullmatch(name)},
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
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
                self._knows_all.clear()
                self._replace_guard()
                self._knows_all.set()
                self._hang_up_if_closing()

    def _hang_up_if_closing(self) -> None:
        if self._closing:
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_WR)

    def _on_event(self, event: dict[str, Any]) -> None:
        if event["on"] == "expired":
            watched = self._watched.pop(event["key"], None)
            if watched is not None and watched.lease is not None:
                watched.on_expired(watched.lease[1])
            return
        if event["on"] == "hello":
            self._knows = tuple(event["knows"])
            self._greeted.set()
            if "pulse" in self._knows:
                self._announce_pulse()
            return
        if event["on"] == "ping":
            self.tell({"do": "alive"})
            return
        handle = self._handles.get(event["key"])
        if handle is None:
            return
        self._heed(handle, event)
        if event["on"] in ("started", "refused", "ended"):
            handle.reply.put(event)

    def _heed(self, handle: JobHandle, event: dict[str, Any]) -> None:
        """What the guard told of a job."""
        if event["on"] == "started":
            handle.main = ProcessId(event["pid"], event["start"])
        elif event["on"] == "refused":
            self._forget(handle)
        elif event["on"] == "exited":
            self._heed_exit(handle, event)
        elif event["on"] == "unendable":
            handle.note_unendable(event["processes"])
        elif event["on"] == "gone":
            self._forget(handle)
            handle.disk_was_full = event.get("disk_full", False)
            handle.events.put(Gone())
        elif event["on"] == "ended":
            self._forget(handle)
            handle.disk_was_full = event.get("disk_full", False)
            handle.main = ProcessId(event["pid"], _ENDED)
            self._heed_exit(handle, event)
            handle.events.put(Gone())

    def _forget(self, handle: JobHandle) -> None:
        del self._handles[handle.key]
        _close_pipe(handle)

    def _heed_exit(self, handle: JobHandle, event: dict[str, Any]) -> None:
        if handle.exited is not None and handle.exited.status is not None:
            return  # this guard does not know that a former one has told it
        status, is_kept = event["status"], event.get("kept", False)
        if status is None and handle.main is not None:
            status, is_kept = self._reap(handle, event["stopped_by"])
        handle.exited = Exited(status, event["stopped_by"], is_kept=is_kept)
        handle.events.put(handle.exited)

    def _reap(self, handle: JobHandle, stopped_by: str) -> tuple[int | None, bool]:
        """The exit status of a job that came to this process when its guard died, and whether it is kept."""
        assert handle.main is not None
        try:
            ended = os.waitid(os.P_PID, handle.main.pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            return None, False
        assert ended is not None
        status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        is_kept = self._folder is not None and keep_exit(
            str(self._folder), os.path.basename(handle.order["folder"]), Exit(status, stopped_by, boot_time_s())
        )
        os.waitpid(handle.main.pid, 0)
        return status, is_kept

    def _replace_guard(self) -> None:
        # One that failed may have been of an older release, and not have understood.
        is_known = False
        if self._guard is not None:
            status = self._guard.wait()
            log.error("guard.died pid=%d status=%d: starting another", self._guard.pid, status)
            is_known = status <= 0 and bool(self._knows)
        else:
            log.error("guard.died: the one of a former worker; starting another")
        # A child that the old guard was just making shows its environment only after its exec.
        time.sleep(0.05)
        with self._sending:
            self._control.close()
            if not is_known:
                self._knows = ()
                self._greeted.clear()
            while True:
                try:
                    self._spawn_guard()
                    break
                except OSError as error:
                    log.error("guard.not_started: %s; trying again", error)
                    time.sleep(1.0)
            self._generation += 1
            lanes, self._lanes, self._num_lanes = self._lanes, [], 0
        for lane in lanes:
            lane.socket.close()
        if not is_known:
            self._hear_hello()
        for key, watched in list(self._watched.items()):
            self.tell(watched.order(key))
        for handle in list(self._handles.values()):
            self._carry_over(handle)

    def _hear_hello(self) -> None:
        """What a guard is told of the jobs that there are depends on what it knows."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        with contextlib.suppress(OSError, ValueError, KeyError):
            if poll.poll(_HELLO_S * 1000):
                for line in self._control.recv(_ANSWER_BYTES).splitlines():
                    self._on_event(json.loads(line))
        self._greeted.set()

    def _carry_over(self, handle: JobHandle) -> None:
        """Tell the present guard of a job that only a former one knew of."""
        with self._sending:
            is_known = self._handles.get(handle.key) is handle
            if not is_known or handle.generation == self._generation or handle.lane is not None:
                return
            handle.generation = self._generation
            if handle.main is None:
                leader = _came_back(tree.marks(handle.order["env"]))
                if leader is None and handle.given_up:
                    self._forget(handle)
                    return
                if leader is None:
                    self._send(*self._start_line(handle))
                    return
                handle.main = leader
                handle.reply.put({"on": "started"})
            adopt = {
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
            if handle.pipe is None or "pipes" not in self._knows:
                self._send(_line(adopt))
                return
            adopt |= {"piped": True, "log": handle.order["log"], "log_bytes": self._log_file_bytes}
            self._send(_line(adopt), [handle.pipe])


#: All of this process; each may have the guard of another worker.
_runners: weakref.WeakSet[ProcessRunner] = weakref.WeakSet()


def reap_orphans() -> None:
    """Reap what jobs and git have left to this process when their own parents ended. To be called now and then."""
    runners = list(_runners)
    orphans.reap(of_jobs=lambda process: not any(runner.awaits(process) for runner in runners))


@dataclass(frozen=True)
class LeftJob:
    """A job that a former worker left with its guard."""

    key: str
    #: Of its attempt.
    folder: Path
    main: ProcessId
    #: How its main process ended meanwhile; None while it runs.
    exited: Exited | None
    #: The read end of what it prints into; None where it prints into its file, as with a guard of an older release.
    pipe: int | None = None
    #: Where its guard moves that to.
    log: str = ""


def take_over(
    folder: Path, *, log_file_bytes: int = 64 << 20, hung_after_s: float | None = None
) -> tuple[ProcessRunner, list[LeftJob], int] | None:
    """Become the worker of the guard that answers in another worker's folder; None when none does.

    Returns its runner (not opened yet), its jobs, and the descriptor of the folder's lock.
    """
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    control.settimeout(_TAKE_S)
    fds: list[int] = []
    try:
        with _short(folder) as short:
            control.connect(short)
        control.sendall(json.dumps({"do": "take", "protocol": PROTOCOL}).encode() + b"\n")
        data = b""
        while not data.endswith(b"\n"):
            more, brought, _, _ = socket.recv_fds(control, 1 << 20, _MAX_FDS)
            if not more:
                raise OSError("the guard hung up")
            data += more
            fds += brought
        for fd in fds:
            os.set_inheritable(fd, False)
        answer = json.loads(data)
        if answer["on"] != "taken" or not fds:
            log.error("guard.refused folder=%s protocol=%s: this is %d", folder, answer.get("protocol"), PROTOCOL)
            control.close()
            return None
        pipes = iter(fds[1:])
        left = [
            LeftJob(
                job["key"],
                Path(job["folder"]),
                ProcessId(job["pid"], job["start"]),
                Exited(job["status"], job["stopped_by"], is_kept=job.get("kept", False)) if job["exited"] else None,
                next(pipes, None) if job.get("log") else None,
                job.get("log", ""),
            )
            for job in answer["jobs"]
        ]
    except (OSError, ValueError, KeyError):
        # Nobody answers: that worker lives, or its guard is gone.
        control.close()
        for fd in fds:
            os.close(fd)
        return None
    control.settimeout(None)
    control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_TIMEOUT_S, 0))
    runner = ProcessRunner(
        lock_fd=fds[0],
        folder=folder,
        control=control,
        log_file_bytes=log_file_bytes,
        hung_after_s=hung_after_s,
        knows_pulse="pulse" in answer.get("knows", ()),
    )
    return runner, left, fds[0]


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


def _close_pipe(handle: JobHandle) -> None:
    pipe, handle.pipe = handle.pipe, None
    if pipe is not None:
        os.close(pipe)


def _line(order: dict[str, Any]) -> bytes:
    return json.dumps(order).encode() + b"\n"


def _came_back(marked: tuple[bytes, ...]) -> ProcessId | None:
    """The main process of a job of which the guard that died had not told yet; it may have ended since."""
    number = tree.cookie(marked)
    found = [
        process.id
        for process in tree.table()
        if process.session == process.id.pid
        and (process.ppid == os.getpid() or not process.zombie)
        and (tree.has_cookie(process.id.pid, number) or tree.has_environ(process.id.pid, marked))
    ]
    # What it left behind may lead a session too; it came later.
    return min(found, key=lambda process: (process.start, process.pid), default=None)
