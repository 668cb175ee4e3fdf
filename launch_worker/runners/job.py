"""Says what supervision may ask of a started job, be it a process or a container, and how a job reports its end."""

from __future__ import annotations

import queue
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from launch_worker.model.outcome import Outcome

#: (SIGTERM, SIGKILL) by boot time, or None: the job may outlive its lease.
Lease = tuple[float, float] | None


class Handle(Protocol):
    """What supervision needs of a started job."""

    events: queue.SimpleQueue[Any]

    def stop(self, *, grace_s: float) -> None:
        """Ask for the end of the whole job; may be repeated with a shorter grace."""


class Job(Handle, Protocol):
    """A started job as its runner gives it: a process or a container."""

    #: How its main process ended; None before.
    exited: Exited | None

    @property
    def pid(self) -> int:
        """Of its main process; 0 while that is not known to run."""

    @property
    def trouble(self) -> str:
        """Why nobody can know now how it is, nor end it; '' while all is well."""

    def report_to(self, enter: Callable[[str, str], None], on_started: Callable[[int], None]) -> None:
        """`on_started` gets its pid when it is known to run, `enter` a word and a sentence when something is wrong."""

    @property
    def bounds_output(self) -> bool:
        """Whether somebody sees to it that its output's file does not grow without end."""

    def catch_up(self) -> None:
        """Wait a moment until what it has printed by now is in its file."""

    def announce(self, reason: str) -> None:
        """Show the job that it shall stop; returns at once, and never raises."""

    def explain(self, outcome: Outcome) -> Outcome:
        """Add to the outcome what the kernel or the engine knows of it."""

    def leave(self) -> None:
        """Another worker will supervise it."""

    def dispose(self) -> None:
        """Remove what is left of an ended job, after its end was kept."""


@dataclass(frozen=True)
class Exited:
    """The job's main process ended. `stopped_by` tells who signalled it before: '', asked, lease or worker."""

    #: Exit code, or minus the signal's number; None when it is not known.
    status: int | None
    stopped_by: str
    #: Why it is not known; '' when it was lost together with a guard.
    problem: str = ""
    #: It is in the file of the exits, where the next worker finds it should this one die.
    is_kept: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Gone:
    """Nothing of the job's tree is left."""
