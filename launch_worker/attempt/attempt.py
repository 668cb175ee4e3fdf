"""Holds one claimed run on this worker, and what the worker shares with all its attempts."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launch_worker.attempt.folder import AttemptFolder
from launch_worker.attempt.shipping import LogShipper
from launch_worker.attempt.supervise import Cancel
from launch_worker.attempt.tail import Tail
from launch_worker.attempt.talk import Talk
from launch_worker.clock import boot_time_s
from launch_worker.errors import StartGivenUpError
from launch_worker.model.run import Record
from launch_worker.model.spec import RunSpec
from launch_worker.runners.job import Job, Lease
from launch_worker.runners.process.runner import ProcessRunner
from launch_worker.settings import Settings
from launch_worker.store.store import Store

if TYPE_CHECKING:
    from launch_worker.runners.container.runner import ContainerRunner

#: Told of each part of an attempt's start, with a sentence for people: `fetch`, `pull`, `start`.
Enter = Callable[[str, str], None]


@dataclass(frozen=True)
class WorkerContext:
    """What the worker lends to every attempt."""

    runner: ProcessRunner
    #: Made, and its engine's SDK imported, when the first container job comes.
    containers: Callable[[], ContainerRunner]
    logs: LogShipper
    settings: Settings
    store: Store
    #: The name of this launch system, for the labels of its containers.
    system: Callable[[], str]
    owner: str
    worker: str
    host: str


@dataclass
class Attempt:
    """One claimed run on this worker. Events for its job (a cancel, a superseding) go into `events`."""

    record: Record
    spec: RunSpec
    folder: AttemptFolder
    events: queue.SimpleQueue[Any]
    lease: Lease
    tail: Tail | None = None
    talk: Talk | None = None
    job: Job | None = None
    #: For how long another worker has supervised it.
    ran_s: float = 0.0
    #: Taken over from another worker, which had been asked to end it.
    is_adopted: bool = False
    asked: Cancel | None = None
    #: The boot time before which its job must not start; None for at once.
    start_at: float | None = None
    #: Its job is gone; only its report is not delivered yet.
    ended: bool = False
    #: Its job called itself finished, and so its run ends, though its processes may go on.
    finished: bool = False
    #: The part that it is in, one of `retry.PHASES`.
    phase: str = "agent"
    #: The record has its process, or will have it with its end only.
    is_start_noted: bool = False
    #: The record tells of parts of its start.
    has_phases: bool = False
    #: The folder that it was submitted from, where this machine has none such: its job runs in an empty one.
    missing_cwd: str = ""
    #: What its execution met with and made an outcome of.
    error: Exception | None = None

    def await_start(self) -> None:
        """Block until its time has come. Raises StartGivenUpError when something else is wanted of it first."""
        while self.start_at is not None and (left_s := self.start_at - boot_time_s()) > 0:
            if not self.events.empty():
                raise StartGivenUpError
            time.sleep(min(left_s, 0.05))

    @property
    def is_over(self) -> bool:
        """Whether its run ends, or has ended, by its own word: that it is over is no news."""
        return self.ended or self.finished

    @property
    def key(self) -> str:
        return f"{self.record.id}.{self.record.attempt}"
