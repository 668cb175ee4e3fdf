"""Defines a started job as the process runner gives it, and a job that another worker left."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from launch_worker.model.outcome import Outcome, with_full_disk, with_out_of_memory
from launch_worker.model.signals import number_of
from launch_worker.model.usage import Used
from launch_worker.runners.job import TERM_ALL, Ending, Exited, Lease, Look
from launch_worker.runners.output import bytes_in
from launch_worker.runners.process import oom, sandboxed, tree
from launch_worker.runners.process.direct_channel import DirectChannel
from launch_worker.runners.process.tree import ProcessId
from launch_worker.runners.talk_folder import announce_stop

log = logging.getLogger("launch_worker.runner")

#: Seconds to wait until output that a running job has printed is in its file.
_CATCH_UP_S = 0.5
#: Seconds between two looks at a pipe meanwhile.
_LOOK_AGAIN_S = 0.001


class _Runner(Protocol):
    """What a handle needs of the runner that gave it."""

    def tell(self, order: dict[str, Any]) -> None:
        """Send an order to the guard."""

    def renew(self, leases: Mapping[str, Lease]) -> None:
        """Send the guard the new leases of jobs, by their keys."""

    def __contains__(self, key: object) -> bool:
        """Whether something of this job may be left."""


@dataclass
class JobHandle:
    """A started job. `events` gets its Exited, then its Gone; other threads may put other events there."""

    key: str
    order: dict[str, Any]
    events: queue.SimpleQueue[Any]
    runner: _Runner
    lease: Lease = None
    #: Boot time from which on it must not start.
    start_by: float = math.inf
    main: ProcessId | None = None
    exited: Exited | None = None
    ending: Ending = TERM_ALL
    #: Seconds of grace of the stop that was asked for; None before.
    stop_grace_s: float | None = None
    #: The start took too long: no thread waits for it any more.
    is_given_up: bool = False
    #: Direct channel that the start was ordered through, until it is answered: whether the guard has read the order is
    #: for the thread of that channel to find out.
    channel: DirectChannel | None = None
    #: Read end of the job's pipe, for the next guard; None where a job of an older guard prints into its file.
    pipe: int | None = None
    #: Sentence that names the processes that cannot be ended; '' for none.
    unendable: str = ""
    #: Reason of the stop that was announced to the job; '' before.
    asked: str = ""
    #: Output was given up because the disk was full.
    disk_was_full: bool = False
    #: Number of the guard that knows of the job, among the guards of its runner.
    generation: int = 0
    #: Number of out-of-memory kills before the job's start; None where the kernel does not count them.
    oom_kills: int | None = field(default_factory=lambda: oom.own_counter().kills())
    reply: queue.SimpleQueue[dict[str, Any]] = field(default_factory=queue.SimpleQueue)
    #: What it has used in all, as far as the guard knows.
    used: Used = field(default_factory=Used)
    #: Writes a sentence about the job where people read it.
    enter: Callable[[str, str], None] | None = None

    @property
    def pid(self) -> int:
        assert self.main is not None
        return self.main.pid

    @property
    def is_sandboxed(self) -> bool:
        """Whether the main process is the monitor of a sandbox, in which the program runs."""
        return bool(self.order.get("sandboxed"))

    def note_used(self, used: Sequence[Any]) -> None:
        """Note what its ended processes have used: seconds of CPU, and bytes of the largest one, 0 for not known."""
        cpu_s, peak_memory = used
        self.used = Used(cpu_s=float(cpu_s), peak_memory=int(peak_memory) or None)

    def measure(self, trees: Mapping[int, Look]) -> Look | None:
        """What its tree has used by now."""
        return trees.get(tree.cookie(tree.marks(self.order["env"])))

    @property
    def trouble(self) -> str:
        """Always '': nothing stands between a guard and its jobs."""
        return ""

    def report_to(self, enter: Callable[[str, str], None], on_started: Callable[[int], None]) -> None:
        """Call `on_started` at once: a job that the guard has started runs."""
        self.enter = enter
        on_started(self.pid)
        self._report_unendable()

    def note_unendable(self, processes: list[tuple[int, str]]) -> None:
        """Keep the names of processes that the worker may not signal, as those of `sudo`, which is setuid."""
        named = ", ".join(f"{pid} ({name})" for pid, name in processes)
        one = len(processes) == 1
        self.unendable = (
            f"{'process' if one else 'processes'} {named} {'belongs' if one else 'belong'} to another user and cannot "
            "be ended by this worker"
        )
        # A thread: the reader of the guard's events must not wait for Redis.
        threading.Thread(target=self._report_unendable, name=f"unendable-{self.key}", daemon=True).start()

    def _report_unendable(self) -> None:
        if self.unendable and self.enter is not None and self.key in self.runner:
            try:
                self.enter("end", f"{self.asked}; {self.unendable}" if self.asked else self.unendable)
            except Exception:  # what people read decides nothing about the job
                log.exception("job.not_told")

    def announce(self, reason: str, kill_at: float) -> None:
        """Show the job, in the folder where it talks with its worker, that it shall stop."""
        self.asked = reason
        announce_stop(Path(self.order["folder"]) / "talk", reason, kill_at)

    def signal(self, name: str, *, to_all: bool) -> None:
        """Send a signal from this process: no order of the guard is needed, so a guard of any release will do."""
        assert self.main is not None
        marked = tree.marks(self.order["env"])
        main: ProcessId | None = self.main
        if self.is_sandboxed:
            main = sandboxed.program_of(self.main)
        for process in tree.members(self.main, marked=marked) if to_all else [main]:
            if process is None or (self.is_sandboxed and process == self.main):
                continue
            try:
                tree.send(process, number_of(name))
            except OSError as error:
                log.warning("job.not_signalled run=%s pid=%d: %s", self.key, process.pid, error)

    def stop(self, *, grace_s: float) -> None:
        """Send SIGTERM to the whole tree, and SIGKILL after the grace. A second call can only shorten the grace."""
        self.stop_grace_s = grace_s if self.stop_grace_s is None else min(grace_s, self.stop_grace_s)
        self.runner.tell({"do": "stop", "key": self.key, "grace_s": grace_s})

    @property
    def bounds_output(self) -> bool:
        """Whether the guard moves its output, and so bounds the output's file."""
        return self.pipe is not None

    def catch_up(self) -> None:
        """Wait a moment until all that the job has printed by now is in its file."""
        deadline = time.monotonic() + _CATCH_UP_S
        with contextlib.suppress(OSError):  # the job is gone, and so is its pipe
            while self.pipe is not None and bytes_in(self.pipe) and time.monotonic() < deadline:
                time.sleep(_LOOK_AGAIN_S)

    def explain(self, outcome: Outcome) -> Outcome:
        """Add to the outcome what is known of the end beside the exit status."""
        if self.exited is not None and self.exited.is_out_of_memory:
            outcome = with_out_of_memory(outcome)
        if self.unendable and self.unendable not in outcome.reason:
            text = f"{self.unendable}: it was waited for"
            outcome = replace(
                outcome,
                reason=f"{outcome.reason}; {text}" if outcome.reason else text,
                message=f"{outcome.message}\n{text}" if outcome.message else "",
            )
        if self.disk_was_full:
            outcome = with_full_disk(outcome)
        return outcome

    def close_pipe(self) -> None:
        pipe, self.pipe = self.pipe, None
        if pipe is not None:
            os.close(pipe)

    def leave(self) -> None:
        """Do nothing: the guard keeps the job for the next worker."""

    def dispose(self) -> None:
        """Do nothing: nothing is left of a job that is Gone."""


@dataclass(frozen=True)
class LeftJob:
    """A job that another worker left with its guard."""

    key: str
    #: Folder of the attempt.
    folder: Path
    main: ProcessId
    #: End of the main process; None while it runs.
    exited: Exited | None
    #: Read end of the job's pipe; None where it prints into its file, as with a guard of an older release.
    pipe: int | None = None
    #: File into which its guard moves the output.
    log: str = ""
    #: What its ended processes have used: seconds of CPU, and bytes of the largest one; None where not known.
    used: Sequence[Any] | None = None
    #: Whether the main process is the monitor of a sandbox.
    is_sandboxed: bool = False
