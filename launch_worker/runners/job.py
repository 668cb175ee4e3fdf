"""Says what supervision may ask of a started job, be it a process or a container, and how a job reports its end."""

from __future__ import annotations

import queue
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from launch_worker.model.outcome import Outcome
from launch_worker.model.usage import Used
from launch_worker.runners.stop_reason import StopReason

#: Boot times of (SIGTERM, SIGKILL); None for a job that may outlive its lease.
Lease = tuple[float, float] | None
#: Sentence about a job that must not start any more, as another one may have what its run held.
LAPSED = "the worker could not renew the lease before the job was started"


class Ending(NamedTuple):
    """How a job is asked to end."""

    #: Number of the signal that asks it.
    stop_signal: int
    #: Whether its main process alone gets that signal while it lives, and not all of its processes.
    stops_main: bool


TERM_ALL = Ending(signal.SIGTERM, False)


class Handle(Protocol):
    """What supervision needs of a started job."""

    events: queue.SimpleQueue[Any]

    def stop(self, *, grace_s: float) -> None:
        """Begin to end the whole job; may be repeated with a shorter grace."""

    def signal(self, name: str, *, to_all: bool) -> None:
        """Send a signal (`SIGUSR1`) to the main process, or to all; returns at once, and never raises."""


class Job(Handle, Protocol):
    """A started job as its runner gives it: a process or a container."""

    @property
    def exited(self) -> Exited | None:
        """The end of its main process; None before."""

    @property
    def used(self) -> Used:
        """What it has used in all, as far as that is known once it is gone."""

    def measure(self, trees: Mapping[int, Look]) -> Look | None:
        """What it has used by now; None where that cannot be known now. `trees` has all trees, by their cookies."""

    @property
    def pid(self) -> int:
        """The pid of its main process; 0 while that is not known to run."""

    @property
    def trouble(self) -> str:
        """Why the job can be neither seen nor ended now; '' while it can."""

    def report_to(self, enter: Callable[[str, str], None], on_started: Callable[[int], None]) -> None:
        """Call `on_started` with the pid when the job is known to run, `enter` with a phase and a sentence."""

    @property
    def bounds_output(self) -> bool:
        """Whether the size of its output's file is bounded."""

    def catch_up(self) -> None:
        """Wait a moment until all that the job has printed by now is in its file."""

    def announce(self, reason: str, kill_at: float) -> None:
        """Show the job that it shall stop, and the Unix time of its SIGKILL; returns at once, and never raises.

        It is called again when that time comes earlier.
        """

    def explain(self, outcome: Outcome) -> Outcome:
        """Add the kernel's or the engine's knowledge of the end to the outcome."""

    def leave(self) -> None:
        """Stop supervising: another worker will."""

    def dispose(self) -> None:
        """Remove the rest of an ended job, after its end was kept."""


class Look(NamedTuple):
    """What a running job has used by now."""

    used: Used
    #: Pids of its processes, where they are known.
    pids: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Exited:
    """The job's main process ended."""

    #: Exit code, or minus the signal's number; None when it is not known.
    status: int | None
    #: Why it was signalled before.
    stopped_by: StopReason
    #: Why the status is not known; '' when it was lost together with a guard.
    problem: str = ""
    #: The status is in the file of the exits, where the next worker finds it should this one die.
    is_kept: bool = field(default=False, compare=False)
    #: The kernel ended it because there was too little memory. Of a container its engine says that.
    is_out_of_memory: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Gone:
    """Nothing of the job's tree is left."""
