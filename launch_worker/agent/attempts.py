"""Holds the attempts of one worker: which there are, what they take of the worker, and the events put to them."""

from __future__ import annotations

import threading

from launch_worker.agent.capacity import Capacity
from launch_worker.attempt.attempt import Attempt
from launch_worker.attempt.supervise import Cancel, Event, HandBack
from launch_worker.model.needs import parse_needs
from launch_worker.model.outcome import Outcome
from launch_worker.model.run import Record
from launch_worker.model.states import RunState

#: State of the record after an attempt, and the outcome; None when another worker has the run.
Ended = tuple[RunState, Outcome] | None


class Attempts:
    """The table of a worker's attempts. Thread-safe.

    An attempt takes a slot before its run is claimed, is entered once the claim was answered, and leaves by `let_go`.
    """

    def __init__(self, *, slots: int, capacity: Capacity, most_grace_s: float | None) -> None:
        """`most_grace_s`: seconds that a stopped job may go on, at most; None for its own grace."""
        self._slots = slots
        self._capacity = capacity
        self._most_grace_s = most_grace_s
        #: Attempts by run and attempt number: a superseded one may still be ending when this worker has the next one.
        self._attempts: dict[str, Attempt] = {}
        #: Event for attempts that are entered after the worker began to stop.
        self._ending: Event | None = None
        #: Attempts whose jobs were left to the next worker.
        self.left: list[Attempt] = []
        #: Number of runs that are claimed, executed or reported now.
        self.active = 0
        #: Number of slots that were ever taken.
        self.taken = 0
        self._counting = threading.Lock()

    # -- which attempts there are ----------------------------------------------------------------------------------

    @property
    def attempts(self) -> list[Attempt]:
        """The attempts that are executed or reported now."""
        return list(self._attempts.values())

    @property
    def held(self) -> list[Attempt]:
        """The attempts whose jobs are not gone yet."""
        return [attempt for attempt in self.attempts if not attempt.ended]

    @property
    def num_running_jobs(self) -> int:
        """The number of attempts whose jobs are not gone, without schedulers."""
        return sum(not attempt.spec.scheduler for attempt in self.held)

    @property
    def num_running_schedulers(self) -> int:
        """The number of schedulers whose jobs are not gone."""
        return sum(attempt.spec.scheduler for attempt in self.held)

    @property
    def are_ended(self) -> bool:
        """Whether nothing but reports is missing."""
        attempts = self.attempts
        return len(attempts) == self.active and all(attempt.ended for attempt in attempts)

    @property
    def unended(self) -> list[Attempt]:
        """The attempts whose jobs have begun, and have not ended as far as anybody knows."""
        return [attempt for attempt in self.attempts if attempt.job is not None and not attempt.ended]

    @property
    def troubled(self) -> list[Attempt]:
        """The unended attempts of which nothing can be known now, as their engine does not answer."""
        return [attempt for attempt in self.unended if attempt.job is not None and attempt.job.trouble]

    @property
    def are_stuck(self) -> bool:
        """Whether nothing but the ends of troubled attempts is missing."""
        attempts = self.attempts
        return len(attempts) == self.active and len(self.troubled) == sum(not attempt.ended for attempt in attempts)

    @property
    def trouble(self) -> str:
        """What keeps the worker from knowing of its jobs, as a predicate of "the worker"; '' for nothing."""
        troubled = self.troubled
        if not troubled or troubled[0].job is None:
            return ""
        runs = ", ".join(attempt.record.id for attempt in troubled[:5]) + (", …" if len(troubled) > 5 else "")
        return f"cannot see to runs {runs}: {troubled[0].job.trouble}; look there why, or start it"

    def carries(self, run_id: str) -> bool:
        """Whether an attempt of the run is claimed, executed or reported here now."""
        return any(attempt.record.id == run_id for attempt in self.attempts)

    def are_steady(self, *, adopting: int) -> bool:
        """Whether every job has started and none is being reported. `adopting`: the number of jobs being adopted."""
        attempts = self.attempts
        adopted = sum(attempt.is_adopted for attempt in attempts)
        all_run = all(attempt.job is not None and not attempt.ended for attempt in attempts)
        return all_run and len(attempts) == self.active and adopting <= adopted

    # -- what they take of the worker ------------------------------------------------------------------------------

    @property
    def busy(self) -> int:
        """The number of slots that are taken; schedulers take none, nor do attempts that only have to be reported."""
        return max(0, self.active - sum(attempt.ended or attempt.spec.scheduler for attempt in self.attempts))

    @property
    def free_slots(self) -> int:
        """The number of slots that are free."""
        return max(0, self._slots - self.busy)

    def take_free_slot(self) -> bool:
        """Take a slot if one is free; returns whether one was."""
        with self._counting:
            is_free = self.busy < self._slots
            self.active += is_free
            self.taken += is_free
        return is_free

    def take_slot(self) -> None:
        """Take a slot for a job that runs already. Celery's pool knows nothing of it, and takes as many as ever."""
        with self._counting:
            self.active += 1
            self.taken += 1

    def leave_slot(self) -> None:
        """Leave a slot for which no attempt was entered."""
        with self._counting:
            self.active -= 1

    def hold(self, record: Record) -> None:
        """Hold what the attempt has of this worker, until it is reported or leaves."""
        if not (record.needs or record.gpus or record.is_scheduler):
            return
        needs = parse_needs(record.needs)
        self._capacity.hold(_key(record), record.gpus, needs.millicores, needs.memory, is_scheduler=record.is_scheduler)

    def release(self, record: Record) -> None:
        """Release what the attempt has of this worker; a second call changes nothing."""
        self._capacity.release(_key(record))

    def enter(self, attempt: Attempt) -> None:
        """Add an attempt that has taken its slot."""
        self._attempts[attempt.key] = attempt
        if self._ending is not None:
            attempt.events.put(self._ending)

    def let_go(self, attempt: Attempt) -> None:
        """Remove an attempt, and free its slot. The job's processes are gone, or are another worker's."""
        self.release(attempt.record)
        self.leave_slot()
        del self._attempts[attempt.key]

    # -- events for them -------------------------------------------------------------------------------------------

    def end_all(self, event: Event) -> None:
        """Put the event to every attempt, and to those that are entered later."""
        self._ending = event
        for attempt in self.attempts:
            attempt.events.put(event)

    def hand_back(self, reason: str, *, ends_at: float | None = None) -> None:
        """Give runs whose jobs have not begun back to their queues, now and from now on.

        Begun jobs go on, and learn when the worker ends them, the monotonic time `ends_at`; None for never.
        """
        event = HandBack(reason, ends_at)
        self._ending = self._ending or event
        for attempt in self.attempts:
            attempt.events.put(event)

    def cancel(self, attempt: Attempt, reason: str, grace_s: float | None, *, preempt: bool) -> None:
        """Stop a job; its run is Killed, or with `preempt` tried again."""
        attempt.events.put(Cancel(reason, self.grace_s(attempt, grace_s), preempt=preempt))

    def grace_s(self, attempt: Attempt, asked_s: float | None) -> float | None:
        """Seconds that a stopped job may go on, at most `most_grace_s`; None for the run's own grace."""
        most_s = self._most_grace_s
        return asked_s if most_s is None else min(most_s, attempt.spec.grace_s if asked_s is None else asked_s)


def _key(record: Record) -> str:
    """The `Attempt.key` of the record's attempt."""
    return f"{record.id}.{record.attempt}"
