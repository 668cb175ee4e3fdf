"""Holds what is known of one attempt's container: the parts of its handle share these facts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from launch_worker.clock import boot_time_s
from launch_worker.runners.container.config import Labels
from launch_worker.runners.container.engine import Engine
from launch_worker.runners.container.state import ContainerState, look_at
from launch_worker.runners.container.talk import ContainerTalks
from launch_worker.runners.container.watch import EngineWatch
from launch_worker.runners.job import Exited
from launch_worker.runners.process.exits import Exit
from launch_worker.runners.stop_reason import StopReason

#: Seconds until an engine that did not answer is asked again.
RETRY_S = 1.0


class Containers(Protocol):
    """What the parts of a handle need of its runner."""

    log_file_bytes: int
    engine: Engine
    watch: EngineWatch
    talks: ContainerTalks

    @property
    def log_driver(self) -> str: ...

    def find_attempt(self, labels: Labels) -> str: ...

    def remove_unstarted(self, container: str) -> bool: ...


class Life:
    """One container, from the time when it is made or taken over until its end is told."""

    def __init__(
        self, key: str, labels: Labels, container: str, *, engine: Engine, kept_exit: Callable[[], Exit | None]
    ) -> None:
        """`kept_exit` returns what a guard has kept of the container: that its lease ran out, and when."""
        self.key = key
        self.labels = labels
        #: Id of the container; '' until it is found by its labels.
        self.container = container
        self._engine = engine
        self._kept_exit = kept_exit
        #: Condition that guards the facts below, and is notified of their changes.
        self.changed = threading.Condition()
        #: Pid of the main process; 0 until it is known to run.
        self.pid = 0
        #: The container has run, and may run still.
        self.has_run = False
        #: End that was told; None before.
        self.exited: Exited | None = None
        #: The end is known: nothing is left to be watched.
        self.is_gone = False
        #: Another worker watches the container from now on.
        self.is_left = False
        #: Why this worker signalled the container, or its guard began to end it; '' for neither.
        self.stopped_by: StopReason = ""
        #: Lock held while a signal is sent, and it is not known whether the container still runs to get it.
        self.signalling = threading.Lock()
        #: Monotonic time of SIGKILL; None before a stop is asked for.
        self.kill_at: float | None = None
        #: Latest answer of the engine; None before the first.
        self.seen: ContainerState | None = None
        #: First answer after the end, or a later one that says more; None before.
        self.end: ContainerState | None = None
        #: Boot time of that first answer.
        self.ended_at: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether this worker has nothing more to do with the container."""
        return self.is_gone or self.is_left

    def why_stopped(self) -> StopReason:
        """Why the container was ended, also by another process; '' when it ended by itself.

        A guard keeps that a lease ran out before it signals the container: what it kept later cannot be the cause.
        """
        with self.signalling:
            if self.stopped_by:
                return self.stopped_by
        kept = self._kept_exit()
        if kept is None or (self.ended_at is not None and kept.at > self.ended_at):
            return ""
        return kept.stopped_by

    def note_end(self, state: ContainerState) -> None:
        """The engine has answered that the container has ended."""
        if self.ended_at is None:
            self.ended_at = boot_time_s()
        self.end = state

    def look(self) -> ContainerState:
        """Ask the engine about the container. Raises EngineAwayError, NoContainerError, StartError."""
        self.seen = look_at(self._engine, self.container)
        return self.seen

    def pause(self, seconds: float) -> None:
        """Wait, but not longer than this worker has to do with the container."""
        with self.changed:
            self.changed.wait_for(lambda: self.is_left, seconds)
