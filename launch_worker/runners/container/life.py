"""Holds what is known of one attempt's container: the parts of its handle share these facts."""

from __future__ import annotations

import threading
from typing import Protocol

from launch_worker.runners.container.config import Labels
from launch_worker.runners.container.engine import Engine
from launch_worker.runners.container.state import ContainerState, look_at
from launch_worker.runners.container.talk import ContainerTalks
from launch_worker.runners.container.watch import EngineWatch
from launch_worker.runners.job import Exited
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

    def __init__(self, key: str, labels: Labels, container: str, *, engine: Engine, stopped_by: StopReason) -> None:
        self.key = key
        self.labels = labels
        #: Id of the container; '' until it is found by its labels.
        self.container = container
        self._engine = engine
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
        #: Why the container was signalled; '' while it was not.
        self.stopped_by: StopReason = stopped_by
        #: Monotonic time of SIGKILL; None before a stop is asked for.
        self.kill_at: float | None = None
        #: Latest answer of the engine; None before the first.
        self.seen: ContainerState | None = None
        #: First answer after the end, or a later one that says more; None before.
        self.end: ContainerState | None = None

    @property
    def is_over(self) -> bool:
        """Whether this worker has nothing more to do with the container."""
        return self.is_gone or self.is_left

    def look(self) -> ContainerState:
        """Ask the engine about the container. Raises EngineAwayError, NoContainerError, StartError."""
        self.seen = look_at(self._engine, self.container)
        return self.seen

    def pause(self, seconds: float) -> None:
        """Wait, but not longer than this worker has to do with the container."""
        with self.changed:
            self.changed.wait_for(lambda: self.is_left, seconds)
