"""Watches one started job until nothing of it is left, and finds how it ended."""

from __future__ import annotations

import math
import queue
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from launch_worker.model.job_words import Finish, HeedsStop, Preempting, Word, Words, outcome_by_words
from launch_worker.model.outcome import Outcome, outcome_of_exit, signal_name
from launch_worker.model.run import Record
from launch_worker.model.signals import Ahead
from launch_worker.model.states import RunState
from launch_worker.model.units import format_duration
from launch_worker.runners.job import Exited, Gone, Handle


@dataclass(frozen=True)
class Cancel:
    """Someone asked to stop the run, with `preempt` so that it runs again. `grace_s` None: the job's own."""

    reason: str
    grace_s: float | None = None
    preempt: bool = False


def asked_of(record: Record) -> Cancel | None:
    """What a person has asked of a running attempt, by its record; None for nothing."""
    if record.cancel_at is None:
        return None
    return Cancel(record.reason.removeprefix("stopping: "), preempt=record.preempting)


@dataclass(frozen=True)
class Shutdown:
    """The worker is going away and takes its jobs down. `grace_s` None: the job's own."""

    reason: str
    grace_s: float | None = None


@dataclass(frozen=True)
class HandBack:
    """The worker takes nothing new: the run goes back to its queue if its job has not begun; a begun job goes on.

    It goes on until `ends_at`, the monotonic time at which the worker ends its jobs; None for as long as it lasts.
    """

    reason: str
    ends_at: float | None = None


@dataclass(frozen=True)
class Superseded:
    """Another attempt has this run now: end the job, report nothing."""


@dataclass(frozen=True)
class Detach:
    """Another worker has the job from now on, or will: supervise it no more.

    A job that is being ended is seen to its end first, unless `at_once`.
    """

    at_once: bool = False


#: What may be put into the events of a job from outside.
Event: TypeAlias = Cancel | Shutdown | HandBack | Superseded | Detach


@dataclass(frozen=True)
class LimitReached:
    """A limit of the job was reached: its worker ends it."""

    reason: str
    #: Limit that it is, as `Outcome.cause` names it: `timeout` or `stall`.
    cause: str


@dataclass(frozen=True)
class Limits:
    """Limits of a job, in seconds; None is no limit."""

    timeout_s: float | None
    #: Seconds without output, and without a word of the job.
    stall_timeout_s: float | None
    grace_s: float
    preempt_exit_code: int = 85
    #: Signal that the job gets ahead of its time limit, and of its SIGKILL where its worker or a preemption ends it.
    signal: Ahead | None = None
    #: Whether all processes of the job get it, and not its main process alone.
    signals_all: bool = False


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
    # A shutdown gives way to a cancel, as for a started job.
    first = min(asked, key=_rank)
    return Outcome(
        RunState.KILLED,
        reason=first.reason,
        preempted=_is_preempted(first),
        unbegun=isinstance(first, (Shutdown, HandBack)),
    )


def _is_preempted(asked: object) -> bool:
    return isinstance(asked, Cancel) and asked.preempt


def _rank(asked: object) -> int:
    """The rank of what was asked: the first stays the reason, unless something of a lower rank follows."""
    if isinstance(asked, Superseded):
        return 0
    if isinstance(asked, (LimitReached, Cancel)):
        return 2 if _is_preempted(asked) else 1
    return 3


def supervise(
    handle: Handle,
    *,
    limits: Limits,
    last_output_s: Callable[[], float],
    ran_s: float = 0.0,
    asked_before: Cancel | None = None,
    was_signalled: bool = False,
    announce: Callable[[str, float], None] = lambda *_: None,
    note_signal: Callable[[], None] = lambda: None,
    read_talk: Callable[[], None] = lambda: None,
    on_word: Callable[[Word, Outcome | None], None] = lambda *_: None,
    milestones: Sequence[tuple[float, Callable[[], None]]] = (),
) -> Outcome:
    """Block until the job's tree is gone. `last_output_s` tells, on the monotonic clock, its last sign of life.

    `ran_s`: the seconds for which another worker has supervised the job; `asked_before`: what that worker was asked.
    `announce` shows the job that it shall stop, and the Unix time of its SIGKILL. `note_signal` keeps that the job gets
    the signal ahead of its end, and `was_signalled` says that another worker has kept that. `read_talk` puts the words
    that the job has written by now into its events.
    `on_word` gets each word; with a `Finish` the outcome that this makes of the run, whatever becomes of the tree.
    `milestones`, in order, are called at their monotonic times if the job is still there.
    Raises AttemptSuperseded, AttemptDetached.
    A job that ended by itself before it was asked to stop keeps its own outcome, whatever was asked meanwhile.
    """
    course = _Course(
        handle,
        limits,
        begun=time.monotonic() - ran_s,
        last_output_s=last_output_s,
        announce=announce,
        note_signal=note_signal,
        was_signalled=was_signalled,
    )
    if asked_before is not None:
        course.ask(asked_before)
    ahead = deque(milestones)
    while not course.is_gone:
        try:
            event = handle.events.get(timeout=_until(ahead[0][0] if ahead else None, course.wait_s()))
        except queue.Empty:
            if ahead and time.monotonic() >= ahead[0][0]:
                ahead.popleft()[1]()
            else:
                course.look_at_clock()
            continue
        if isinstance(event, (Finish, Preempting, HeedsStop)):
            _note_word(course, event, on_word)
        else:
            course.take(event)
    read_talk()
    while not handle.events.empty():
        event = handle.events.get()
        if isinstance(event, (Finish, Preempting, HeedsStop)):
            course.words = course.words.with_word(event)
    if isinstance(course.asked, Superseded):
        raise AttemptSuperseded
    return course.outcome()


def _until(instant: float | None, wait_s: float | None) -> float | None:
    """Seconds until an instant, or until something else is due; None for ever."""
    if instant is None:
        return wait_s
    left_s = max(0.0, instant - time.monotonic())
    return left_s if wait_s is None else min(left_s, wait_s)


def _note_word(course: _Course, word: Word, on_word: Callable[[Word, Outcome | None], None]) -> None:
    known, course.words = course.words, course.words.with_word(word)
    if course.words != known:
        status = course.words.finish if isinstance(word, Finish) else None
        code = course.limits.preempt_exit_code
        on_word(word, None if status is None else outcome_of_exit(status, preempt_exit_code=code))


class _Course:
    """The state of one job so far, and what was asked of it."""

    def __init__(
        self,
        handle: Handle,
        limits: Limits,
        *,
        begun: float,
        last_output_s: Callable[[], float],
        announce: Callable[[str, float], None],
        note_signal: Callable[[], None],
        was_signalled: bool,
    ) -> None:
        self.limits = limits
        self.words = Words()
        self.asked: Cancel | Shutdown | Superseded | LimitReached | None = None
        self.exited: Exited | None = None
        self.is_gone = False
        self._handle = handle
        self._begun = begun
        self._last_output_s = last_output_s
        self._announce = announce
        self._note_signal = note_signal
        self._was_signalled = was_signalled
        #: Monotonic time of the signal ahead of the end; None while there is none to come.
        self._signal_at: float | None = None
        if limits.timeout_s is not None:
            self._signal_before(begun + limits.timeout_s)
        #: Deadlines (SIGTERM, SIGKILL; monotonic) after a stop was announced to a job that has time to obey; else None.
        self._ends_at: tuple[float, float] | None = None
        #: Monotonic time of SIGKILL of which the job was told; infinite before.
        self._announced_end = math.inf
        #: The job was sent SIGTERM.
        self._is_termed = False

    def wait_s(self) -> float | None:
        """Seconds until something may be due; None for ever."""
        if self.exited is not None:
            return None
        wait_s = None
        if self._ends_at is not None:
            wait_s = max(0.0, self._ends_at[0] - time.monotonic())
        elif self.asked is None:
            wait_s = _until_limit(self.limits, self._begun, self._last_output_s())
        return _until(self._signal_at, wait_s)

    def look_at_clock(self) -> None:
        if self.exited is not None:
            return
        now = time.monotonic()
        if self._signal_at is not None and now >= self._signal_at:
            self._signal()
        if self._ends_at is not None:
            if now >= self._ends_at[0]:
                kill_at, self._ends_at, self._is_termed = self._ends_at[1], None, True
                self._handle.stop(grace_s=max(0.0, kill_at - now))
            return
        if self.asked is None:
            self.asked = _limit_reached(self.limits, self._begun, self._last_output_s())
            if self.asked is not None:
                self._end(self.asked, self.limits.grace_s)

    def take(self, event: Any) -> None:
        """Take one event. Raises AttemptDetached."""
        if isinstance(event, Exited):
            # A second event comes from a guard that took over from one which had sent the status already.
            if self.exited is None or self.exited.status is None:
                self.exited = event
        elif isinstance(event, Gone):
            self.is_gone = True
        elif isinstance(event, Detach):
            if event.at_once or (self.asked is None and self.exited is None):
                raise AttemptDetached
        elif isinstance(event, HandBack):
            if event.ends_at is not None and self.asked is None:
                self._signal_before(event.ends_at + self.limits.grace_s)
        elif self.exited is None:
            self.ask(event)

    def ask(self, event: Cancel | Shutdown | Superseded) -> None:
        # A limit that was reached first stays the reason; a shutdown gives way to a cancel.
        if self.asked is None or _rank(event) < _rank(self.asked):
            self.asked = event
        self._end(event, _grace(event, self.limits))

    def _end(self, event: Cancel | Shutdown | Superseded | LimitReached, grace_s: float) -> None:
        now = time.monotonic()
        left_s = grace_s if self._ends_at is None else min(grace_s, self._ends_at[1] - now)
        kill_at = now + left_s
        if left_s > 0 and kill_at < self._announced_end:
            self._announced_end = kill_at
            self._announce(_reason(self.asked), time.time() + left_s)
        term_at = now if self._is_termed or left_s <= 0 else self._time_of_term(event, now, kill_at)
        if self._ends_at is not None:
            term_at = min(term_at, self._ends_at[0])
        if term_at > now:
            self._ends_at = (term_at, kill_at)
            return
        self._ends_at, self._is_termed = None, True
        self._handle.stop(grace_s=left_s)

    def _time_of_term(self, event: Cancel | Shutdown | Superseded | LimitReached, now: float, kill_at: float) -> float:
        """The monotonic time of SIGTERM to a job that is told of its end now, and has time to obey."""
        term_at = (now + kill_at) / 2 if self.words.heeds_stop else now
        if not _is_led_by_signal(event):
            self._signal_at = None
            return term_at
        if self._was_signalled:
            # By this end, or long before it.
            return term_at if self._ends_at is None else max(term_at, self._ends_at[0])
        self._signal_before(kill_at)
        if self._signal_at is None:
            return term_at
        term_at = max(term_at, (max(now, self._signal_at) + kill_at) / 2)
        if self._signal_at <= now:
            self._signal()
        return term_at

    def _signal_before(self, end_at: float) -> None:
        """Have the signal ahead of the end come before this monotonic time, unless it comes earlier."""
        ahead = self.limits.signal
        if ahead is not None and not self._was_signalled:
            signal_at = end_at - ahead.seconds
            self._signal_at = signal_at if self._signal_at is None else min(signal_at, self._signal_at)

    def _signal(self) -> None:
        """Send the signal ahead of the end, once."""
        assert self.limits.signal is not None
        self._signal_at, self._was_signalled = None, True
        # Before the signal: should this worker die in between, the next one must not send it again.
        self._note_signal()
        self._handle.signal(self.limits.signal.name, to_all=self.limits.signals_all)

    def outcome(self) -> Outcome:
        """The outcome, now that nothing of the job is left."""
        # A stop was announced, and the job ended before it was signalled.
        was_told = self.words.heeds_stop or self._was_signalled
        is_obeyed = was_told and self._ends_at is not None and self.exited is not None
        asked = None if isinstance(self.asked, Superseded) else self.asked
        ended = outcome_of_end(asked, self.exited, self.limits.preempt_exit_code, is_obeyed=is_obeyed)
        status = None if self.exited is None else self.exited.status
        return outcome_by_words(ended, self.words, status=status, preempt_exit_code=self.limits.preempt_exit_code)


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


def _limit_reached(limits: Limits, begun: float, last_output: float) -> LimitReached | None:
    now = time.monotonic()
    if limits.timeout_s is not None and now - begun >= limits.timeout_s:
        return LimitReached(f"time limit of {format_duration(limits.timeout_s)} reached", "timeout")
    if limits.stall_timeout_s is not None and now - max(begun, last_output) >= limits.stall_timeout_s:
        return LimitReached(f"no output for {format_duration(limits.stall_timeout_s)}", "stall")
    return None


def _reason(asked: Cancel | Shutdown | Superseded | LimitReached | None) -> str:
    return "" if asked is None or isinstance(asked, Superseded) else asked.reason


def _is_led_by_signal(event: Cancel | Shutdown | Superseded | LimitReached) -> bool:
    """Whether the signal ahead of the end comes before such an end too: a person's cancel and a stall need none."""
    if isinstance(event, LimitReached):
        return event.cause == "timeout"
    return isinstance(event, Shutdown) or _is_preempted(event)


def outcome_of_end(
    asked: Cancel | Shutdown | LimitReached | None,
    exited: Exited | None,
    preempt_exit_code: int,
    *,
    is_obeyed: bool = False,
) -> Outcome:
    """The outcome of a job that is gone, by what was asked of it and how its main process ended."""
    stopped = exited is not None and (is_obeyed or exited.stopped_by == "asked")
    if exited is None or exited.status is None:
        if stopped and asked is not None:
            return _stopped(asked)
        text = (exited and exited.problem) or "the exit status was lost when the worker's guard died"
        if exited is not None and exited.problem and exited.stopped_by in ("lease", "worker"):
            return Outcome(RunState.CRASHED, reason=text)
        return Outcome(RunState.FAILED, reason=text, phase="run", message=text)
    own = outcome_of_exit(exited.status, preempt_exit_code=preempt_exit_code)
    signal = signal_name(-exited.status) if exited.status < 0 else ""
    if exited.stopped_by in ("lease", "worker"):
        lost = exited.stopped_by == "lease"
        reason = "its worker could not renew the lease and ended the job" if lost else "its worker died"
        return Outcome(RunState.CRASHED, reason=reason, exit_code=own.exit_code, signal=signal)
    if not stopped or asked is None:
        return own
    return replace(_stopped(asked), exit_code=own.exit_code, signal=signal)


def _stopped(asked: Cancel | Shutdown | LimitReached) -> Outcome:
    """The outcome of a job that ended because that was asked of it."""
    if isinstance(asked, LimitReached):
        text = asked.reason
        return Outcome(RunState.FAILED, reason=text, phase="run", message=text, cause=asked.cause)
    return Outcome(
        RunState.KILLED,
        reason=asked.reason,
        by_shutdown=isinstance(asked, Shutdown),
        preempted=_is_preempted(asked),
    )
