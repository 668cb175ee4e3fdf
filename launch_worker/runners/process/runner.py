"""Runs jobs as processes, which the worker's guard starts and ends."""

from __future__ import annotations

import errno
import logging
import math
import os
import queue
import socket
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch_worker.clock import boot_time_s
from launch_worker.errors import LeaseLostError, StartError
from launch_worker.model.units import format_duration
from launch_worker.runners.job import LAPSED, TERM_ALL, Ending, Exited, Gone, Lease
from launch_worker.runners.output import make_pipe
from launch_worker.runners.process import oom, orphans, sandboxed, tree
from launch_worker.runners.process.confinement import Confinement
from launch_worker.runners.process.direct_channel import LEAST_TIMEOUT_S, DirectChannel
from launch_worker.runners.process.exits import Exit, keep_exit, read_exits
from launch_worker.runners.process.guard_link import GuardLink
from launch_worker.runners.process.handle import JobHandle, LeftJob
from launch_worker.runners.process.own_process import become_subreaper
from launch_worker.runners.process.protocol import encode
from launch_worker.runners.process.reaped import of_rusage
from launch_worker.runners.process.spawn import look_at_program
from launch_worker.runners.process.tree import Process, ProcessId
from launch_worker.runners.stop_reason import StopReason

log = logging.getLogger("launch_worker.runner")

#: Numbers of the errors with which the system refuses any job, and not what this job asks for.
_OF_THE_MACHINE = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EAGAIN, errno.EIO, errno.EROFS)
)
#: Start time recorded when a process ended before it was read; matches no living process.
_ENDED = 0


@dataclass
class _WatchedContainer:
    """A container that the guard watches."""

    container: str
    lease: Lease
    on_expired: Callable[[float], None]
    more: dict[str, Any]

    def order(self, key: str) -> dict[str, Any]:
        return {"do": "watch", "key": key, "container": self.container, "lease": self.lease, "more": self.more}


class ProcessRunner:
    """Owns a guard process, and replaces it when it dies. Thread-safe.

    `folder` is where the guard answers the next worker, should this one leave its jobs; `lock_fd` is that folder's
    lock, which the guard holds too. The file of a job's output keeps at most about twice `log_file_bytes`. With
    `control`, the conversation with a guard that another worker left (see `takeover`), no guard is started before that
    one dies. With `hung_after_s` the guard kills this process when it has not answered for that many seconds.
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
        """`knows_pulse`: the guard of `control` can ask whether this worker lives."""
        self._log_file_bytes = log_file_bytes
        #: Folder of the file in which the guard keeps how attempts ended; '' for none.
        self.folder = "" if folder is None else str(folder)
        self._handles: dict[str, JobHandle] = {}
        self._watched: dict[str, _WatchedContainer] = {}
        become_subreaper()  # should the guard die, its jobs become children of this process
        _runners.add(self)
        self.guard = GuardLink(
            folder,
            lock_fd=lock_fd,
            control=control,
            hung_after_s=hung_after_s,
            knows_pulse=knows_pulse,
            on_event=self._on_event,
            on_replaced=self._on_guard_replaced,
        )

    def open(self) -> ProcessRunner:
        """Begin to read what the guard sends. The jobs that `take_over` found must be claimed before."""
        self.guard.open()
        return self

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
        start_by: float = math.inf,
        ending: Ending = TERM_ALL,
        confinement: Confinement | None = None,
    ) -> JobHandle:
        """Start a job in a session of its own; its output goes to the file `log_path`. Raises StartError, OSError.

        `env` must hold LAUNCH_RUN_ID and LAUNCH_TOKEN: by them the tree is found. `brief_s` are seconds for which this
        may wait for the end of the job: one report of a brief job is cheaper than three. Its events are there already.
        From the boot time `start_by` on the job does not start any more.
        """
        more: dict[str, Any] = {}
        if confinement is not None:
            argv, env, more = confinement.confine(argv, env=env, cwd=str(cwd))
        output = str(log_path)
        if boot_time_s() >= start_by:
            # The guard looks once more: this process may be frozen from here on.
            raise LeaseLostError(LAPSED)
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
            **more,
        }
        if "confined" not in more:
            look_at_program(argv, env=env, cwd=str(cwd))
        self.guard.await_hello()
        if not more.keys() <= set(self.guard.knows):
            raise StartError("the guard of this worker is of a release that cannot confine jobs so; start it anew")
        handle = JobHandle(key, order, events, self, lease=lease, start_by=start_by, ending=ending)
        if "pipes" in self.guard.knows:
            handle.pipe = make_pipe()
        # Both under one lock: a guard that is replaced before knows nothing of the job, and the next one gets it.
        with self.guard.lock:
            self._handles[key] = handle
            handle.generation = self.guard.generation
            line, fds = self._start_line(handle, brief_s=brief_s)
            handle.channel = channel = self.guard.take_channel()
            if channel is None:
                self.guard.send(line, fds)
        deadline = time.monotonic() + timeout_s
        try:
            answer = None if channel is None else self._ask(handle, channel, line, fds, timeout_s=timeout_s)
            if answer is None:
                answer = handle.reply.get(timeout=max(LEAST_TIMEOUT_S, deadline - time.monotonic()))
        except (TimeoutError, queue.Empty):
            handle.is_given_up = True
            self._carry_over(handle)
            handle.stop(grace_s=0)
            raise StartError(f"the job's process did not start within {format_duration(timeout_s)}") from None
        if answer["on"] == "refused" and answer.get("errno") == errno.ETIME:
            raise LeaseLostError(LAPSED)
        if answer["on"] == "refused":
            raise StartError(answer["error"], worker_fault=answer.get("errno") in _OF_THE_MACHINE)
        return handle

    def _start_line(self, handle: JobHandle, *, brief_s: float = 0.0) -> tuple[bytes, list[int]]:
        """The order in words that the present guard knows, and the descriptors that go with it."""
        more: dict[str, Any] = {"lease": handle.lease}
        more |= self._ending_of(handle)
        fds = []
        more |= self._kills_before(handle)
        if "start_by" in self.guard.knows:
            more["start_by"] = handle.start_by
        if brief_s > 0 and "brief" in self.guard.knows:
            more["brief_s"] = brief_s
        if handle.pipe is not None and "pipes" in self.guard.knows:
            more |= {"piped": True, "log_bytes": self._log_file_bytes}
            fds = [handle.pipe]
        return encode(handle.order | more), fds

    def _ending_of(self, handle: JobHandle) -> dict[str, Any]:
        """The words that say how the job is asked to end; none for the usual way, or where the guard knows no other."""
        ending = handle.ending
        if ending == TERM_ALL or "endings" not in self.guard.knows:
            return {}
        return {"stop_signal": ending.stop_signal, "stops_main": ending.stops_main}

    def _kills_before(self, handle: JobHandle) -> dict[str, Any]:
        is_known = "oom" in self.guard.knows and handle.oom_kills is not None
        return {"oom_kills": handle.oom_kills} if is_known else {}

    def awaits(self, process: Process) -> bool:
        """Whether it is the main process of a job whose exit status this runner is going to read."""
        for handle in list(self._handles.values()):
            if handle.main == process.id:
                return True
            number = tree.cookie(tree.marks(handle.order["env"]))
            if handle.main is None and tree.has_cookie(process.id.pid, number):
                return True
        return False

    def renew(self, leases: Mapping[str, Lease]) -> None:
        """Send the guard the new leases of its jobs and of the containers that it watches."""
        known = {key: lease for key, lease in leases.items() if key in self._handles or key in self._watched}
        for key, lease in known.items():
            if key in self._handles:
                self._handles[key].lease = lease
            else:
                self._watched[key].lease = lease
        if known:
            self.guard.look()
            self.tell({"do": "lease", "leases": known})

    def watch(
        self, key: str, container: str, *, lease: Lease, on_expired: Callable[[float], None], more: Mapping[str, Any]
    ) -> None:
        """Have the guard end a container whose lease runs out, whatever becomes of this worker.

        `on_expired` gets the boot time at which it is killed; `more` is what `end_container` needs to know of it.
        """
        self._watched[key] = watched = _WatchedContainer(container, lease, on_expired, dict(more))
        self.tell(watched.order(key))

    def unwatch(self, key: str) -> None:
        self._watched.pop(key, None)
        self.tell({"do": "unwatch", "key": key})

    def kept_exit(self, attempt: str) -> Exit | None:
        """How an attempt ended, as the guard has kept it; `attempt` is the name of its folder."""
        return read_exits(self.folder).get(attempt) if self.folder else None

    def claim(
        self,
        left: LeftJob,
        *,
        env: Mapping[str, str],
        grace_s: float,
        events: queue.SimpleQueue[Any],
        ending: Ending = TERM_ALL,
    ) -> JobHandle:
        """Supervise a job that another worker left; `env` holds its marks. To be called before `open`."""
        order = {"env": dict(env), "grace_s": grace_s, "folder": str(left.folder), "log": left.log}
        order |= {"sandboxed": True} if left.is_sandboxed else {}
        handle = JobHandle(left.key, order, events, self, main=left.main, pipe=left.pipe, ending=ending)
        handle.generation = self.guard.generation
        if left.used is not None:
            handle.note_used(left.used)
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
        """Leave the jobs with the guard: each may go on until its lease runs out. No more events of them come."""
        self.guard.detach()
        self._close_pipes()

    def close(self, *, timeout_s: float = 10.0) -> None:
        """Let the guard go. Jobs that still run are ended by it."""
        # It may keep a container until its lease runs out.
        has_leases = any(watched.lease for watched in self._watched.values())
        self.guard.close(timeout_s=timeout_s, awaits_end=not has_leases)
        self._close_pipes()

    def _close_pipes(self) -> None:
        for handle in list(self._handles.values()):
            handle.close_pipe()

    def tell(self, order: dict[str, Any]) -> None:
        self.guard.tell(order)

    # -- inside ------------------------------------------------------------------------------------------------

    def _ask(
        self, handle: JobHandle, channel: DirectChannel, line: bytes, fds: Sequence[int], *, timeout_s: float
    ) -> dict[str, Any] | None:
        """Order through a channel; the answer, or None when the guard died before it. Raises TimeoutError."""
        answer, is_late = None, False
        try:
            channel.order(line, fds)
            answer = channel.answer(timeout_s=timeout_s)
        except TimeoutError:
            is_late = True
        except OSError:
            pass
        with self.guard.lock:
            handle.channel = None
            if answer is not None:
                self._apply(handle, answer)
            if self.guard.give_back(channel, is_answered=answer is not None, is_late=is_late):
                return answer
        channel.close()
        if is_late:
            raise TimeoutError
        # Whoever replaced the guard meanwhile has left the job to this thread.
        self._carry_over(handle)
        return answer

    def _on_event(self, event: dict[str, Any]) -> None:
        if event["on"] == "expired":
            watched = self._watched.pop(event["key"], None)
            if watched is not None and watched.lease is not None:
                watched.on_expired(watched.lease[1])
            return
        handle = self._handles.get(event["key"])
        if handle is None:
            return
        self._apply(handle, event)
        if event["on"] in ("started", "refused", "ended"):
            handle.reply.put(event)

    def _apply(self, handle: JobHandle, event: dict[str, Any]) -> None:
        """Take over what the guard has reported of a job."""
        if event.get("used") is not None:
            handle.note_used(event["used"])
        if event["on"] == "started":
            handle.main = ProcessId(event["pid"], event["start"])
        elif event["on"] == "refused":
            self._forget(handle)
        elif event["on"] == "exited":
            self._apply_exit(handle, event)
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
            self._apply_exit(handle, event)
            handle.events.put(Gone())

    def _forget(self, handle: JobHandle) -> None:
        del self._handles[handle.key]
        handle.close_pipe()

    def _apply_exit(self, handle: JobHandle, event: dict[str, Any]) -> None:
        if handle.exited is not None and handle.exited.status is not None:
            return  # the guard that died had reported it already
        status, is_kept = event["status"], event.get("kept", False)
        if status is None and handle.main is not None:
            handle.exited = self._reap(handle, event["stopped_by"], had_oom=event.get("oom", False))
        else:
            # A guard of an older release does not say it.
            is_oom = event["oom"] if "oom" in event else _is_out_of_memory(handle, status, event["stopped_by"])
            is_oom = is_oom and status is not None
            handle.exited = Exited(status, event["stopped_by"], is_kept=is_kept, is_out_of_memory=is_oom)
        handle.events.put(handle.exited)

    def _reap(self, handle: JobHandle, stopped_by: StopReason, *, had_oom: bool) -> Exited:
        """Reap a job that came to this process when its guard died, and keep its end.

        `had_oom`: the kernel has killed a process of its group for want of memory.
        """
        assert handle.main is not None
        try:
            ended = os.waitid(os.P_PID, handle.main.pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            return Exited(None, stopped_by)
        assert ended is not None
        status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        is_oom = (had_oom and status != 0 and not stopped_by) or _is_out_of_memory(handle, status, stopped_by)
        status = sandboxed.status_of(status) if handle.is_sandboxed else status
        exited = Exit(status, stopped_by, boot_time_s(), is_out_of_memory=is_oom)
        is_kept = bool(self.folder) and keep_exit(self.folder, os.path.basename(handle.order["folder"]), exited)
        handle.note_used(of_rusage(os.wait4(handle.main.pid, 0)[2]))
        return Exited(status, stopped_by, is_kept=is_kept, is_out_of_memory=is_oom)

    def _on_guard_replaced(self) -> None:
        for key, watched in list(self._watched.items()):
            self.tell(watched.order(key))
        for handle in list(self._handles.values()):
            with self.guard.lock:
                channel = handle.channel
                if channel is not None and channel.generation != self.guard.generation:
                    channel.hang_up()
            self._carry_over(handle)

    def _carry_over(self, handle: JobHandle) -> None:
        """Give the present guard a job that only a guard before it knew."""
        with self.guard.lock:
            is_known = self._handles.get(handle.key) is handle
            if not is_known or handle.generation == self.guard.generation or handle.channel is not None:
                return
            handle.generation = self.guard.generation
            if handle.main is None:
                leader = _came_back(tree.marks(handle.order["env"]))
                if leader is None and handle.is_given_up:
                    self._forget(handle)
                    return
                if leader is None:
                    self.guard.send(*self._start_line(handle))
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
                **({"sandboxed": True} if handle.is_sandboxed else {}),
                **self._ending_of(handle),
                **self._kills_before(handle),
            }
            if handle.pipe is None or "pipes" not in self.guard.knows:
                self.guard.send(encode(adopt))
                return
            adopt |= {"piped": True, "log": handle.order["log"], "log_bytes": self._log_file_bytes}
            self.guard.send(encode(adopt), [handle.pipe])


#: All runners of this process; each may have the guard of another worker.
_runners: weakref.WeakSet[ProcessRunner] = weakref.WeakSet()


def _is_out_of_memory(handle: JobHandle, status: int | None, stopped_by: StopReason) -> bool:
    if status is None or stopped_by:
        return False
    return oom.has_ended(handle.pid, status, kills_before=handle.oom_kills)


def reap_orphans() -> None:
    """Reap the processes of jobs and of git whose own parents ended. To be called now and then."""
    runners = list(_runners)
    orphans.reap(of_jobs=lambda process: not any(runner.awaits(process) for runner in runners))


def _came_back(marked: tuple[bytes, ...]) -> ProcessId | None:
    """Find the main process of a job whose start the guard that died had not reported; it may have ended since.

    It may not lead its session yet, as the guard may have died just after the fork. Then it is this process's child.
    """
    number = tree.cookie(marked)
    found = [
        process
        for process in tree.table()
        if (process.ppid == os.getpid() or (process.session == process.id.pid and not process.zombie))
        and (tree.has_cookie(process.id.pid, number) or tree.has_environ(process.id.pid, marked))
    ]
    # What it left behind is found too, but started later.
    first = min(found, key=lambda each: (each.id.start, each.session != each.id.pid, each.id.pid), default=None)
    return None if first is None else first.id
