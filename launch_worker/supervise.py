"""Watches one started job until nothing of it is left, and says how it ended."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

from launch_worker.retry import Outcome, outcome_of_exit, signal_name
from launch_worker.runners.process import Exited, Gone
from launch_worker.states import RunState
from launch_worker.units import format_duration


class Handle(Protocol):
    """What supervision needs of a started job."""

    events: queue.SimpleQueue[Any]

    def stop(self, *, grace_s: float) -> None:
        """Ask for the end of the whole job; may be repeated with a shorter grace."""


class Job(Handle, Protocol):
    """A started job as its runner gives it: a process or a container."""

    @property
    def pid(self) -> int:
        """Of its main process."""

    def explain(self, outcome: Outcome) -> Outcome:
        """Add to the outcome what the kernel or the engine knows of it."""

    def leave(self) -> None:
        """Another worker will supervise it."""

    def dispose(self) -> None:
        """Remove what is left of an ended job, after its end was kept."""


@dataclass(frozen=True)
class Cancel:
    """Someone asked to stop the run; `preempt`: so that it runs again. `grace_s` None: the job's own."""

    reason: str
    grace_s: float | None = None
    preempt: bool = False


@dataclass(frozen=True)
class Shutdown:
    """The worker is going away and takes its jobs down. `grace_s` None: the job's own."""

    reason: str
    grace_s: float | None = None


@dataclass(frozen=True)
class Superseded:
    """Another attempt has this run now: end the job, report nothing."""


@dataclass(frozen=True)
class Detach:
    """Another worker has the job from now on, or will: supervise it no more.

    One that is being ended is seen to its end first, unless `at_once`.
    """

    at_once: bool = False


#: What others want of a job.
Event: TypeAlias = Cancel | Shutdown | Superseded | Detach


@dataclass(frozen=True)
class Limits:
    """Seconds; None is no limit."""

    timeout_s: float | None
    stall_timeout_s: float | None
    grace_s: float
    preempt_exit_code: int = 85


class AttemptSuperseded(Exception):
    """The job was ended because its attempt lost the run; there is no outcome to report."""


class AttemptDetached(Exception):
    """The job goes on without this worker; there is no outcome to report yet."""


def never_started(events: queue.SimpleQueue[Any]) -> Outcome:
    """The outcome of an attempt whose end was asked for before it had a process. Raises AttemptSuperseded."""
    asked = [events.get()]
    while not events.empty():
        asked.append(events.get())
    if any(isinstance(event, Superseded) for event in asked):
        raise AttemptSuperseded
    # As for a started one, a shutdown gives way to a cancel.
    first = min(asked, key=_rank)
    return Outcome(
        RunState.KILLED,
        reason=first.reason,
        by_shutdown=isinstance(first, Shutdown),
        preempted=_is_preempted(first),
    )


def _is_preempted(asked: object) -> bool:
    return isinstance(asked, Cancel) and asked.preempt


def _rank(asked: object) -> int:
    """What was asked first stays the reason, unless something of a lower rank follows."""
    if isinstance(asked, Superseded):
        return 0
    if isinstance(asked, (str, Cancel)):
        return 2 if _is_preempted(asked) else 1
    return 3


def supervise(
    handle: Handle,
    *,
    limits: Limits,
    last_output_s: Callable[[], float],
    ran_s: float = 0.0,
    former: Cancel | None = None,
) -> Outcome:
    """Block until the job's tree is gone. `last_output_s` tells, on the monotonic clock, its last sign of life.

    `ran_s`: for how long another worker has supervised it; `former`: what that one was asked. Raises
    AttemptSuperseded, AttemptDetached.
    A job that ended by itself before it was signalled keeps its own outcome, whatever was asked meanwhile.
    """
    begun = time.monotonic() - ran_s
    asked: Cancel | Shutdown | Superseded | str | None = former
    if former is not None:
        handle.stop(grace_s=_grace(former, limits))
    exited: Exited | None = None
    while True:
        try:
            wait_s = None if asked or exited else _until_limit(limits, begun, last_output_s())
            event = handle.events.get(timeout=wait_s)
        except queue.Empty:
            asked = _limit_reached(limits, begun, last_output_s())
            if asked:
                handle.stop(grace_s=limits.grace_s)
            continue
        if isinstance(event, Exited):
            exited = event
        elif isinstance(event, Gone):
            break
        elif isinstance(event, Detach):
            if event.at_once or (asked is None and exited is None):
                raise AttemptDetached
        elif exited is None:
            # A limit that was reached first stays the reason; a shutdown gives way to a cancel.
            if asked is None or _rank(event) < _rank(asked):
                asked = event
            handle.stop(grace_s=_grace(event, limits))
    if isinstance(asked, Superseded):
        raise AttemptSuperseded
    return _outcome(asked, exited, limits.preempt_exit_code)


def _grace(event: Cancel | Shutdown | Superseded, limits: Limits) -> float:
    if isinstance(event, Superseded):
        return 0.0
    return limits.grace_s if event.grace_s is None else event.grace_s


def _until_limit(limits: Limits, begun: float, last_output: float) -> float | None:
    """Seconds until a limit may be reached; None for never."""
    ends = []
    if limits.timeout_s is not None:
        ends.append(begun + limits.timeout_s)
    if limits.stall_timeout_s is not None:
        ends.append(max(begun, last_output) + limits.stall_timeout_s)
    return max(0.0, min(ends) - time.monotonic()) if ends else None


def _limit_reached(limits: Limits, begun: float, last_output: float) -> str | None:
    now = time.monotonic()
    if limits.timeout_s is not None and now - begun >= limits.timeout_s:
        return f"time limit of {format_duration(limits.timeout_s)} reached"
    if limits.stall_timeout_s is not None and now - max(begun, last_output) >= limits.stall_timeout_s:
        return f"no output for {format_duration(limits.stall_timeout_s)}"
    return None


def _outcome(asked: Cancel | Shutdown | str | None, exited: Exited | None, preempt_exit_code: int) -> Outcome:
    stopped = exited is not None and exited.stopped_by == "asked"
    if exited is None or exited.status is None:
        if stopped and isinstance(asked, (Cancel, Shutdown)):
            return _killed(asked)
        text = (exited and exited.problem) or "the exit status was lost when the worker's guard died"
        return Outcome(RunState.FAILED, reason=text, phase="run", message=text)
    own = outcome_of_exit(exited.status, preempt_exit_code=preempt_exit_code)
    signal = signal_name(-exited.status) if exited.status < 0 else ""
    if exited.stopped_by in ("lease", "worker"):
        lost = exited.stopped_by == "lease"
        reason = "its worker could not renew the lease and ended the job" if lost else "its worker died"
        return Outcome(RunState.CRASHED, reason=reason, exit_code=own.exit_code, signal=signal)
    if not stopped or asked is None:
        return own
    if isinstance(asked, str):
        return Outcome(
            RunState.FAILED, reason=asked, phase="run", message=asked, exit_code=own.exit_code, signal=signal
        )
    return replace(_killed(asked), exit_code=own.exit_code, signal=signal)


def _killed(asked: Cancel | Shutdown) -> Outcome:
    return Outcome(
        RunState.KILLED,
        reason=asked.reason,
        by_shutdown=isinstance(asked, Shutdown),
        preempted=_is_preempted(asked),
    )
