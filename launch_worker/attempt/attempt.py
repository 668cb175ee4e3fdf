"""Holds one claimed run on this worker, and what the worker shares with all its attempts."""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from launch_worker.attempt.checkpoints import Keeper
from launch_worker.attempt.folder import AttemptFolder
from launch_worker.attempt.shipping import LogShipper
from launch_worker.attempt.supervise import Cancel
from launch_worker.attempt.tail import Tail
from launch_worker.attempt.talk import Talk
from launch_worker.clock import boot_time_s
from launch_worker.errors import StartGivenUpError
from launch_worker.model.job_words import CheckpointReady, Word
from launch_worker.model.run import Record
from launch_worker.model.spec import RunSpec
from launch_worker.queues.confinement import Demands
from launch_worker.runners.job import Job, Lease
from launch_worker.runners.process.accounts import Account
from launch_worker.runners.process.layers import Layers
from launch_worker.runners.process.runner import ProcessRunner
from launch_worker.settings import Settings
from launch_worker.store.store import Store

if TYPE_CHECKING:
    from launch_worker.runners.container.runner import ContainerRunner

#: Callback for each part of an attempt's start (`fetch`, `build`, `pull`, `wait`, `start`), with a sentence for people.
Enter = Callable[[str, str], None]


@dataclass(frozen=True)
class WorkerContext:
    """What a worker gives to every attempt."""

    runner: ProcessRunner
    #: Gives the container runner; the first call makes it, and imports the engine's SDK.
    containers: Callable[[], ContainerRunner]
    logs: LogShipper
    #: Looks at a started job from the call on.
    sample: Callable[[Attempt], None]
    settings: Settings
    store: Store
    #: Gives the name of this launch system, for the labels of its containers.
    system: Callable[[], str]
    owner: str
    worker: str
    host: str
    #: What this machine can confine processes by.
    layers: Layers
    #: Says why a run of a queue (its name) cannot be confined here as the queue asks; '' where it can.
    why_unenforced: Callable[[str, Demands], str] = lambda *_: ""


@dataclass
class Attempt:
    """One claimed run on this worker. Events for its job (a cancel, a superseding) go into `events`."""

    record: Record
    spec: RunSpec
    folder: AttemptFolder
    events: queue.SimpleQueue[Any]
    lease: Lease
    #: Boot time, seconds, at which Redis may begin to take the attempt for lost. Unlike `lease` each attempt has it.
    held_until: float = math.inf
    tail: Tail | None = None
    talk: Talk | None = None
    #: What keeps the job's checkpoints; None where they are not kept.
    checkpoints: Keeper | None = None
    #: Whether the job goes on from a checkpoint of an earlier attempt.
    is_resumed: bool = False
    job: Job | None = None
    #: Writes the end to Redis, in place of `Store.finish`, where the slot's next run is claimed with it.
    finish: Callable[..., bool] | None = None
    #: Seconds for which another worker has supervised the job.
    ran_s: float = 0.0
    #: Monotonic time at which the job began; None before.
    begun_s: float | None = None
    #: Whether another worker started the job.
    is_adopted: bool = False
    #: Cancel that the previous worker was asked for.
    asked: Cancel | None = None
    #: Boot time before which the job must not start; None for at once.
    start_at: float | None = None
    #: Whether the job is gone, and only the report is missing.
    ended: bool = False
    #: Whether the job called itself finished: the run ends, though the processes may go on.
    finished: bool = False
    #: Part of the attempt that is under way, one of `outcome.PHASES`.
    phase: str = "agent"
    #: Whether the record has the job's process, or gets it with the end.
    is_start_noted: bool = False
    #: Whether the record has parts of the start.
    has_phases: bool = False
    #: Account that its process has; None for the worker's own user.
    account: Account | None = None
    #: Whether its Python environment may be made by code of packages, which is executed as the worker's user.
    builds_packages: bool = True
    #: Folder of the submitter that this machine lacks, so that the job runs in an empty one; '' for none.
    missing_cwd: str = ""
    #: Folder of the Python environment that the job runs in; '' for none.
    environment: str = ""
    #: Whether it may have nothing but what its signature or its secrets are bound to.
    is_bound: bool = False
    #: Values of the run's secrets, opened for its job.
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    #: Error that ended the execution.
    error: Exception | None = None

    def hear(self, word: Word) -> None:
        """Hear a word of the job: those of its end are events for its supervisor."""
        if not isinstance(word, CheckpointReady):
            self.events.put(word)
        elif self.checkpoints is not None:
            self.checkpoints.note(word.label)

    def await_start(self) -> None:
        """Block until the job's time has come. Raises StartGivenUpError when an event comes first."""
        while self.start_at is not None and (left_s := self.start_at - boot_time_s()) > 0:
            if not self.events.empty():
                raise StartGivenUpError
            time.sleep(min(left_s, 0.05))

    @property
    def is_lapsed(self) -> bool:
        """Whether its job has not begun, and must not begin any more: what the run held may be another run's by now."""
        return self.job is None and not self.ended and boot_time_s() >= self.held_until

    @property
    def is_over(self) -> bool:
        """Whether the run ends, or has ended, by the job's own word: that the run is over is no news."""
        return self.ended or self.finished

    @property
    def key(self) -> str:
        """RUN.ATTEMPT, by which the guard knows the job."""
        return f"{self.record.id}.{self.record.attempt}"
