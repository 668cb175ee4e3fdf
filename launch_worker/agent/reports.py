"""Reports to Redis what becomes of attempts: the start of a job, its phases and words, and the end of its run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from launch_worker.agent.attempts import Attempts, Ended
from launch_worker.agent.identity import Identity
from launch_worker.agent.intake import Intake
from launch_worker.agent.last_checkpoints import LastCheckpoints
from launch_worker.agent.outage import Outage
from launch_worker.agent.workplace import Workplace
from launch_worker.attempt.attempt import Attempt
from launch_worker.attempt.tail import Growing
from launch_worker.clock import boot_time_s
from launch_worker.errors import BrokerUnavailableError, DamagedError, UnknownRunError
from launch_worker.model.job_words import Preempting, Word
from launch_worker.model.outcome import Outcome, exception_of, outcome_of_exit, with_exception
from launch_worker.model.retry import NextStep, next_step
from launch_worker.model.run import Record
from launch_worker.model.states import RunState
from launch_worker.model.usage import NO_USAGE, KeptUsage
from launch_worker.model.worker import FreeCapacity
from launch_worker.settings import Settings
from launch_worker.store.store import Store

log = logging.getLogger("launch_worker.jobs")

T = TypeVar("T")

#: A function such as `Outage.repeat`.
Repeat = Callable[[Callable[[], Any]], Any]


class Reports:
    """The reports of one worker's attempts. Thread-safe.

    A note that Redis does not get is left out; an end is repeated until Redis has it, and kept on disk meanwhile.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        store: Store,
        outage: Outage,
        intake: Intake,
        attempts: Attempts,
        workplace: Workplace,
        settings: Settings,
        stopping: threading.Event,
        free_capacity: Callable[[], FreeCapacity | None],
    ) -> None:
        """`free_capacity` says what the worker has room for; None while it takes no runs."""
        self._checkpoints = LastCheckpoints(
            identity, store=store, settings=settings, stopping=stopping, note_phase=self.note_phase
        )
        self._identity = identity
        self._store = store
        self._outage = outage
        self._intake = intake
        self._attempts = attempts
        self._workplace = workplace
        self._free_capacity = free_capacity

    @property
    def is_behind(self) -> bool:
        """Whether checkpoints of ended attempts are being stored."""
        return self._checkpoints.is_behind

    def note_start(self, attempt: Attempt, pid: int) -> None:
        """Note the process of a job that has started."""
        record = attempt.record
        if attempt.job is not None and attempt.job.exited is not None and not attempt.has_phases:
            return  # reported with the end
        attempt.is_start_noted = True
        try:
            self._store.started(record.id, record.token, pid=pid)
        except BrokerUnavailableError:
            log.warning("run.start_unnoted run=%s pid=%d: Redis is away", record.id, pid)

    def note_phase(self, attempt: Attempt, phase: str, reason: str) -> None:
        """Note that a part of an attempt's start begins."""
        record = attempt.record
        attempt.has_phases = True
        try:
            self._store.phase(record, phase, reason=reason)
        except BrokerUnavailableError:
            log.warning("run.phase_unnoted run=%s phase=%s: Redis is away", record.id, phase)

    def note_word(self, attempt: Attempt, word: Word, outcome: Outcome | None) -> None:
        """Act on a word of the job. With a `Finish` its run has ended, unless the run will be tried again."""
        if isinstance(word, Preempting):
            attempt.record = replace(attempt.record, yields=True)
        if outcome is None:
            return
        step = next_step(attempt.record, outcome, attempt.spec)
        if step.retry_delay_s is None:
            # A run that is tried again ends with its processes: the next attempt must not begin beside them.
            attempt.finished = True
            threading.Thread(
                target=self._finish_early,
                args=(attempt, step, boot_time_s()),
                name=f"finish-{attempt.record.id}",
                daemon=True,
            ).start()

    def report(self, attempt: Attempt, outcome: Outcome, keep: Callable[[], None]) -> Ended:
        """Report the end of an attempt; `keep` sends files of the run before."""
        record, ended_s = attempt.record, boot_time_s()
        self._intake.note(record, outcome)
        step = next_step(attempt.record, outcome, attempt.spec)
        used = self._workplace.usage.usage(attempt)
        deliver: Repeat = partial(self._deliver, attempt, step, ended_s, used)
        if not _is_kept_by_guard(attempt, outcome):
            deliver = self._outage.repeat
            attempt.folder.write_report(record, step, owner=self._identity.owner, ended_s=ended_s, used=used)
        attempt.ended = True
        if attempt.job is not None:
            attempt.job.dispose()
        self._attempts.release(record)
        leaves_outputs = self._leave_outputs(attempt)
        pid = None
        if attempt.job is not None and not attempt.is_start_noted:
            # 0 for a container that had ended before this worker saw it; the record may have its pid.
            pid = attempt.job.pid or None
        try:
            self._ship_rest(attempt, by=self._workplace.logs.finish, repeat=deliver)
            deliver(keep)
            is_behind = self._checkpoints.before_end(attempt, outcome, step)
            # Only of a run that is over: one that is tried again may be the next one here.
            by = attempt.finish if step.retry_delay_s is None and not is_behind else None
            facts = (pid, used, leaves_outputs, by)
            accepted = deliver(lambda: self.finish(record, step, boot_time_s() - ended_s, *facts))
        except BrokerUnavailableError:
            log.warning("run.report_kept run=%s: the next worker on this machine delivers it", record.id)
            return outcome.state, outcome
        self._workplace.logs.keep(attempt.tail)
        if is_behind and accepted:
            self._checkpoints.after_end(attempt)
        else:
            attempt.folder.remove()
        if not accepted:
            log.warning("run.late_report_refused run=%s attempt=%d", record.id, record.attempt)
            return None
        state = outcome.state if step.retry_delay_s is None else RunState.PENDING
        log.info("run.ended run=%s attempt=%d state=%s reason=%s", record.id, record.attempt, state, outcome.reason)
        return state, outcome

    def finish(
        self,
        record: Record,
        step: NextStep,
        ended_ago_s: float | None = None,
        pid: int | None = None,
        used: KeptUsage = NO_USAGE,
        leaves_outputs: bool | None = None,
        by: Callable[..., bool] | None = None,
    ) -> bool:
        """Have Redis end a run, or try it again. False when the attempt was superseded."""
        return (by or self._store.finish)(
            record,
            step,
            owner=self._identity.owner,
            free=self._free_capacity(),
            pid=pid,
            ended_ago_s=ended_ago_s,
            used=used,
            leaves_outputs=leaves_outputs,
        )

    def _leave_outputs(self, attempt: Attempt) -> bool | None:
        """Leave what the job has put out to those who send it; returns whether there is something.

        None: nothing need be said of it.
        """
        try:
            are_left = attempt.folder.leave_outputs()
        except OSError as error:
            log.error("outputs.not_moved run=%s: %s", attempt.record.id, error)
            return True
        if are_left:
            self._workplace.send_outputs(attempt.folder.path.name)
        # An early report may have said that there is something.
        return are_left or (False if attempt.finished else None)

    def _finish_early(self, attempt: Attempt, step: NextStep, ended_s: float) -> None:
        """Report an end before the job's processes are gone.

        The word is on disk: where this is cut short, the later report or the next worker delivers the end.
        """
        record = attempt.record
        try:
            if attempt.job is not None:
                attempt.job.catch_up()
            self._ship_rest(attempt, by=lambda growing: growing.ship(self._store), repeat=self._outage.repeat)
            if self._outage.repeat(
                lambda: self._store.finish(
                    record,
                    step,
                    owner=self._identity.owner,
                    ended_ago_s=boot_time_s() - ended_s,
                    used=self._workplace.usage.usage(attempt),
                    leaves_outputs=attempt.folder.has_outputs or None,
                )
            ):
                log.info("run.finished_itself run=%s attempt=%d", record.id, record.attempt)
        except BrokerUnavailableError:
            log.warning("run.finish_kept run=%s: the next worker on this machine delivers it", record.id)
        except Exception:
            log.exception("run.finish_failed run=%s: it is reported when its processes are gone", record.id)

    def _ship_rest(self, attempt: Attempt, *, by: Callable[[Growing], object], repeat: Repeat) -> None:
        """Send what the job has written to its talk and its output by now. Raises BrokerUnavailableError."""
        if attempt.talk is not None and attempt.spec.sweep:
            attempt.talk.look()
            attempt.talk.add_results(attempt.folder.output)
        for growing in (attempt.talk, attempt.tail):
            if growing is not None:
                self._ship(attempt.record, growing, by=by, repeat=repeat)

    def _ship(self, record: Record, growing: Growing, *, by: Callable[[Growing], object], repeat: Repeat) -> None:
        try:
            try:
                repeat(lambda: by(growing))
            except UnknownRunError:
                # Redis was rolled back: the record first, as for the end itself.
                repeat(lambda: self._store.restore(record, owner=self._identity.owner))
                repeat(lambda: by(growing))
        except UnknownRunError as error:
            log.warning("log.not_kept run=%s: %s", growing.run_id, error)
            self._workplace.logs.forget(growing)
        except DamagedError as error:
            log.error("log.not_kept run=%s: %s", growing.run_id, error)

    def _deliver(self, attempt: Attempt, step: NextStep, ended_s: float, used: KeptUsage, call: Callable[[], T]) -> T:
        """Call as `Outage.repeat` does, for an end that is on no disk: the first failure writes it there."""
        try:
            return call()
        except BrokerUnavailableError:
            attempt.folder.write_report(attempt.record, step, owner=self._identity.owner, ended_s=ended_s, used=used)
            return self._outage.repeat(call)


def _is_kept_by_guard(attempt: Attempt, outcome: Outcome) -> bool:
    """Whether recovery would find the same outcome in what the job's guard writes down when its worker dies."""
    exited = None if attempt.job is None else attempt.job.exited
    if exited is None or not exited.is_kept or exited.status is None:
        return False
    known = outcome_of_exit(exited.status, preempt_exit_code=attempt.spec.preempt_exit_code)
    # Recovery reads the exception out of the output again.
    return outcome == known or outcome == with_exception(known, exception_of(outcome.reason))
