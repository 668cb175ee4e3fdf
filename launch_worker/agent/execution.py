"""Executes attempts in their callers' threads, from the claim or the adoption to the report of the end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from launch_worker.agent.attempts import Attempts, Ended
from launch_worker.agent.outage import Outage
from launch_worker.agent.reports import Reports
from launch_worker.agent.workplace import Workplace
from launch_worker.attempt.attempt import Attempt
from launch_worker.attempt.execute import execute, talk_of
from launch_worker.attempt.kept_folders import keeper_of_container
from launch_worker.attempt.restore import keeper_of, take_up_checkpoints
from launch_worker.attempt.supervise import AttemptDetached, AttemptSuperseded
from launch_worker.model.outcome import Outcome
from launch_worker.store.store import Store

log = logging.getLogger("launch_worker.jobs")


class Execution:
    """Executes the attempts of one worker. Thread-safe."""

    def __init__(
        self, *, store: Store, outage: Outage, attempts: Attempts, reports: Reports, workplace: Workplace
    ) -> None:
        self._store = store
        self._outage = outage
        self._attempts = attempts
        self._reports = reports
        self._workplace = workplace

    def enter_adopted(self, attempt: Attempt) -> None:
        """Enter an attempt that has its slot, and whose job another worker of this machine started.

        Raises BrokerUnavailableError; then the slot is free again.
        """
        record, output, logs = attempt.record, attempt.folder.output, self._workplace.logs
        bound = attempt.job is not None and not attempt.job.bounds_output
        self._attempts.enter(attempt)
        try:
            self._attempts.hold(record)
            attempt.tail = self._outage.repeat(
                lambda: logs.watch(record.id, record.attempt, output, resume=True, bound=bound)
            )
            keeper = keeper_of_container if attempt.folder.is_container else keeper_of
            take_up_checkpoints(attempt, self._workplace.context, keeper)
            attempt.talk = talk = talk_of(attempt)
            self._outage.repeat(lambda: talk.resume(self._store))
            logs.follow(talk)
        except Exception:
            self._let_go(attempt)
            raise

    def execute(self, attempt: Attempt) -> Outcome:
        """Block until the attempt's job is gone. Raises AttemptSuperseded, AttemptDetached."""
        return execute(
            attempt,
            context=self._workplace.context,
            on_started=partial(self._reports.note_start, attempt),
            enter=partial(self._reports.note_phase, attempt),
            on_word=partial(self._reports.note_word, attempt),
        )

    def conclude(
        self,
        attempt: Attempt,
        result: Outcome | AttemptDetached | AttemptSuperseded,
        *,
        keep: Callable[[], None] = lambda: None,
    ) -> Ended:
        """Report the end of an attempt, or leave the attempt to the worker that has it now; call it once for each.

        The attempt's slot is free before the report, which is repeated while Redis is away. `keep` sends files of the
        run before its end is reported.
        """
        record = attempt.record
        try:
            if isinstance(result, Outcome):
                return self._reports.report(attempt, result, keep)
            if attempt.checkpoints is not None:
                attempt.checkpoints.leave()
            if isinstance(result, AttemptDetached):
                self._leave(attempt)
                return None
            log.warning("run.superseded run=%s attempt=%d: its job was ended", record.id, record.attempt)
            if attempt.job is not None:
                attempt.job.dispose()
            self._workplace.logs.keep(attempt.tail)
            attempt.folder.remove()
            return None
        finally:
            self._let_go(attempt)

    def _leave(self, attempt: Attempt) -> None:
        """Leave a job to the next worker; its guard ends it when no worker renews its lease."""
        log.warning("run.detached run=%s attempt=%d: its job goes on", attempt.record.id, attempt.record.attempt)
        if attempt.job is not None:
            attempt.job.leave()
        try:
            attempt.folder.keep_record(attempt.record)
        except OSError as error:
            log.error("run.record_not_kept run=%s: %s", attempt.record.id, error)
        self._attempts.left.append(attempt)

    def _let_go(self, attempt: Attempt) -> None:
        # Before all that may fail, which must not keep the slot.
        self._attempts.let_go(attempt)
        self._workplace.usage.forget(attempt)
        for growing in (attempt.tail, attempt.talk):
            if growing is not None:
                self._workplace.logs.forget(growing)
