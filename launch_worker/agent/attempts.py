"""Holds the attempts of one worker: claims or adopts them, has them executed, reports their ends or leaves them."""

from __future__ import annotations

import logging
import queue
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar

from launch_worker.agent.capacity import Capacity
from launch_worker.agent.config import AgentConfig
from launch_worker.agent.identity import Identity
from launch_worker.agent.intake import Intake
from launch_worker.agent.outage import Outage
from launch_worker.attempt.attempt import Attempt, WorkerContext
from launch_worker.attempt.execute import execute, talk_of
from launch_worker.attempt.folder import AttemptFolder
from launch_worker.attempt.supervise import AttemptDetached, AttemptSuperseded, Cancel, Event, HandBack
from launch_worker.attempt.tail import Growing
from launch_worker.attempt.worker_folder import WorkerFolder
from launch_worker.clock import boot_time_s
from launch_worker.errors import BrokerUnavailableError, DamagedError, InputError, LaunchError
from launch_worker.model.job_words import Preempting, Word
from launch_worker.model.needs import parse_needs
from launch_worker.model.outcome import Outcome, outcome_of_exit
from launch_worker.model.retry import NextStep, has_retries_left, next_step
from launch_worker.model.run import Record
from launch_worker.model.spec import RunSpec, parse_spec
from launch_worker.model.states import RunState
from launch_worker.model.worker import FreeCapacity
from launch_worker.runners.job import Lease
from launch_worker.settings import Settings
from launch_worker.store.attempts import NOT_PLAIN, NotConsumed
from launch_worker.store.store import Store

log = logging.getLogger("launch_worker.jobs")

T = TypeVar("T")

#: `Store.claim` or `Store.claim_next` with their own arguments bound; the common ones are added at the call.
Claim = Callable[..., tuple[Record | None, str]]


class SentClaim(NamedTuple):
    """A claim that was sent, and whose answer was not read."""

    nonce: str
    #: Boot time of the call, seconds: the lease counts from then.
    sent_at: float
    #: Blocks until Redis has answered.
    answer: Callable[[], tuple[Record | None, str]]


#: Reader of specs; many runs have the same one.
_spec_of = lru_cache(maxsize=64)(parse_spec)

#: A function such as `Outage.repeat`.
Repeat = Callable[[Callable[[], Any]], Any]

#: State of the record after an attempt, and the outcome; None when another worker has the run.
Ended = tuple[RunState, Outcome] | None


class Attempts:
    """Executes attempts in their callers' threads, and knows which there are. Thread-safe.

    `open` must be called before anything is claimed.
    """

    _context: WorkerContext
    _folder: WorkerFolder

    def __init__(
        self,
        identity: Identity,
        *,
        store: Store,
        settings: Settings,
        config: AgentConfig,
        slots: int,
        outage: Outage,
        intake: Intake,
        capacity: Capacity,
        queues: Callable[[], Sequence[str]],
        register: Callable[[], object],
        before_us: int = 0,
    ) -> None:
        """`queues` gives the queues that are consumed now; `register` tells Redis of them at once.

        `register` raises BrokerUnavailableError. `before_us`: see the attribute.
        """
        self._identity = identity
        self._store = store
        self._settings = settings
        self._config = config
        self._slots = slots
        self._outage = outage
        self._intake = intake
        self._capacity = capacity
        self._queues = queues
        self._register = register
        #: Lock from reading what is free until that is held: claims that are not plain are made one at a time.
        self._claiming = threading.Lock()
        #: Attempts by run and attempt number: a superseded one may still be ending when this worker has the next one.
        self._attempts: dict[str, Attempt] = {}
        #: Event for attempts that are entered after the worker began to stop.
        self._ending: Event | None = None
        #: Attempts whose jobs were left to the next worker.
        self._left: list[Attempt] = []
        #: Server time, microseconds, after which a run must not have become ready to be this worker's; 0 for no limit.
        self.before_us = before_us
        #: Number of runs that are claimed, executed or reported now.
        self.active = 0
        self._counting = threading.Lock()

    def open(self, context: WorkerContext, folder: WorkerFolder) -> None:
        """Give every attempt from now on this context, and a folder in this one."""
        self._context = context
        self._folder = folder

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

    def attempt_folder(self, record: Record) -> AttemptFolder:
        """The folder for the files of an attempt in this worker's own folder."""
        return self._folder.attempt(record)

    def are_steady(self, *, adopting: int) -> bool:
        """Whether every job has started and none is being reported. `adopting`: the number of jobs being adopted."""
        attempts = self.attempts
        adopted = sum(attempt.is_adopted for attempt in attempts)
        all_run = all(attempt.job is not None and not attempt.ended for attempt in attempts)
        return all_run and len(attempts) == self.active and adopting <= adopted

    def free_capacity(self) -> FreeCapacity | None:
        """What the worker has room for; None while it takes no runs."""
        if not self._intake.is_open:
            return None
        free, total = self._capacity.free(), self._capacity.total
        return FreeCapacity(
            owner=self._identity.owner,
            queues=tuple(self._queues()),
            slots=max(0, self._slots - self.busy),
            schedulers=self._capacity.free_schedulers,
            gpus=len(free.devices),
            cpus=free.millicores,
            memory=free.memory,
            total=(len(total.devices), total.millicores, total.memory),
            backfill_s=self._settings.backfill_s,
            prefetch_s=self._config.prefetch_seconds,
            before_us=self.before_us,
        )

    def left_leases(self, *, renewed_at: float) -> dict[str, Lease]:
        """The leases of the jobs that were left to the next worker, for their guards; renewed at a boot time."""
        leases: dict[str, Lease] = {}
        for attempt in (*self._left, *self.attempts):
            lease = self.lease(attempt.record, attempt.spec, renewed_at=renewed_at)
            if lease is None and not attempt.folder.is_container:
                # No other machine is given the run, but no job may run for ever without a worker.
                lease = _guarded(attempt.spec, renewed_at=renewed_at, lease_s=self._settings.lease_s)
            leases[attempt.key] = lease
        return leases

    def end_all(self, event: Event) -> None:
        """Put the event to every attempt, and to those that are entered later."""
        self._ending = event
        for attempt in self.attempts:
            attempt.events.put(event)

    def hand_back(self, reason: str) -> None:
        """Give runs whose jobs have not begun back to their queues, now and from now on; begun jobs go on."""
        self._ending = self._ending or HandBack(reason)
        for attempt in self.attempts:
            if attempt.job is None:
                attempt.events.put(HandBack(reason))

    def cancel(self, attempt: Attempt, reason: str, grace_s: float | None, *, preempt: bool) -> None:
        """Stop a job; its run is Killed, or with `preempt` tried again."""
        attempt.events.put(Cancel(reason, self.grace_s(attempt, grace_s), preempt=preempt))

    def grace_s(self, attempt: Attempt, asked_s: float | None) -> float | None:
        """Seconds that a stopped job may go on, at most `stopped_run_timeout`; None for the run's own grace."""
        most_s = self._config.stopped_run_timeout
        return asked_s if most_s is None else min(most_s, attempt.spec.grace_s if asked_s is None else asked_s)

    def claim(self, run_id: str, seq: int, sent: SentClaim | None = None) -> Attempt | Ended:
        """Claim the run; its attempt has a slot, and its lease is renewed, until `conclude`.

        Returns how the run ended when it cannot be executed; None when it is not this worker's, or no slot is free.
        `sent`: the claim of the same run that `send_claim` has sent.
        """
        return self._take(
            partial(self._store.claim, run_id, seq),
            f"run={run_id}",
            instead=lambda: self._put_back(run_id, seq),
            sent=sent,
        )

    def send_claim(self, run_id: str, seq: int) -> SentClaim | None:
        """Send the claim of a run, which takes a slot, and do not wait for the answer; `claim` must follow.

        Returns None when anything is in the way: `claim` finds out what.
        """
        if not self._intake.is_open or not self._take_slot():
            return None
        nonce, sent_at, answer = secrets.token_hex(8), boot_time_s(), None
        try:
            answer = self._store.send_claim(run_id, seq, nonce=nonce, **self._claimer())
        except LaunchError as error:
            log.debug("run.claim_unsent run=%s: %s", run_id, error)
        if answer is None:
            self._leave_slot()
            return None
        return SentClaim(nonce, sent_at, answer)

    def claim_next(self, lists: Sequence[str], slot: str) -> Attempt | None:
        """Pop and claim the next run of these lists in one step, for a slot that has just concluded one.

        Returns None when no run can be executed, or anything is in the way: the broker's client finds out what.
        """
        begun = self._take(partial(self._store.claim_next, lists, slot=slot), f"slot={slot}")
        return begun if isinstance(begun, Attempt) else None

    def _take(
        self,
        claim: Claim,
        what: str,
        *,
        instead: Callable[[], None] = lambda: None,
        sent: SentClaim | None = None,
    ) -> Attempt | Ended:
        is_free = sent is not None or self._take_slot()
        begun: Attempt | Ended = None
        try:
            if sent is None and not (self._intake.is_open and is_free):
                instead()
                return None
            begun = self._begin(claim, what, sent)
            if isinstance(begun, Attempt):
                self._enter(begun)
        except DamagedError as error:
            log.error("run.refused %s: %s", what, error)
            self._store.refuse("", f"the record of a run is damaged ({what}): {error}", b"")
        except BrokerUnavailableError as error:
            log.warning("run.left %s: this worker stops while Redis is away. %s", what, error)
        finally:
            if not isinstance(begun, Attempt):
                self._leave_slot()
        return begun

    def enter_adopted(self, attempt: Attempt) -> None:
        """Enter an attempt whose job another worker of this machine started. Raises BrokerUnavailableError."""
        record, output = attempt.record, attempt.folder.output
        bound = attempt.job is not None and not attempt.job.bounds_output
        self._hold(record)
        self._take_slot()
        self._enter(attempt)
        try:
            attempt.tail = self._outage.repeat(
                lambda: self._context.logs.watch(record.id, record.attempt, output, resume=True, bound=bound)
            )
            attempt.talk = talk = talk_of(attempt)
            self._outage.repeat(lambda: talk.resume(self._store))
            self._context.logs.follow(talk)
        except BrokerUnavailableError:
            self._let_go(attempt)
            raise

    @property
    def busy(self) -> int:
        """The number of slots that are taken; schedulers take none, nor do attempts that only have to be reported."""
        return max(0, self.active - sum(attempt.ended or attempt.spec.scheduler for attempt in self.attempts))

    def _take_slot(self) -> bool:
        """Take a slot; returns whether one was free. Adopted runs hold slots of which Celery's pool knows nothing."""
        with self._counting:
            is_free = self.busy < self._slots
            self.active += 1
        return is_free

    def _leave_slot(self) -> None:
        with self._counting:
            self.active -= 1

    def _hold(self, record: Record) -> None:
        """Hold what the attempt has of this worker, until it is reported or leaves."""
        if not (record.needs or record.gpus or record.is_scheduler):
            return
        needs = parse_needs(record.needs)
        self._capacity.hold(_key(record), record.gpus, needs.millicores, needs.memory, is_scheduler=record.is_scheduler)

    def _begin(self, claim: Claim, what: str, sent: SentClaim | None) -> Attempt | Ended:
        """Claim a run; returns how it ended when it cannot be executed, None when it is not this worker's."""
        record, claimed_at = self._claim(claim, what, sent)
        if record is None:
            return None
        log.info("run.claimed run=%s attempt=%d queue=%s", record.id, record.attempt, record.queue)
        try:
            record.check()
            spec = _spec_of(record.spec)
            return Attempt(
                record=record,
                spec=spec,
                folder=self._folder.attempt(record),
                events=queue.SimpleQueue(),
                lease=self.lease(record, spec, renewed_at=claimed_at),
                start_at=_local(record, boot_time_s()),
            )
        except Exception as error:
            # Whatever is wrong with the record: the run ends, and its slot and devices are free.
            why = str(error) if isinstance(error, InputError) else f"{type(error).__name__} in the worker: {error}"
            if not isinstance(error, InputError):
                log.exception("run.failed run=%s phase=agent", record.id)
            outcome = Outcome(RunState.FAILED, reason=why, phase="agent", message=why)
            self._capacity.release(_key(record))
            self._outage.repeat(lambda: self._finish(record, NextStep(outcome)))
            return outcome.state, outcome

    def _enter(self, attempt: Attempt) -> None:
        self._attempts[attempt.key] = attempt
        if self._ending is not None:
            attempt.events.put(self._ending)

    def _let_go(self, attempt: Attempt) -> None:
        # The job's processes are gone, or are another worker's.
        self._capacity.release(attempt.key)
        # Before all that may fail, which must not keep the slot.
        self._leave_slot()
        del self._attempts[attempt.key]
        for growing in (attempt.tail, attempt.talk):
            if growing is not None:
                self._context.logs.forget(growing)

    def execute(self, attempt: Attempt) -> Outcome:
        """Block until the attempt's job is gone. Raises AttemptSuperseded, AttemptDetached."""
        return execute(
            attempt,
            context=self._context,
            on_started=lambda pid: self._note_start(attempt, pid),
            enter=lambda phase, reason: self._note_phase(attempt, phase, reason),
            on_word=lambda word, outcome: self._note_word(attempt, word, outcome),
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
                return self._report(attempt, result, keep)
            if isinstance(result, AttemptDetached):
                self._leave(attempt)
                return None
            log.warning("run.superseded run=%s attempt=%d: its job was ended", record.id, record.attempt)
            if attempt.job is not None:
                attempt.job.dispose()
            attempt.folder.remove()
            return None
        finally:
            self._let_go(attempt)

    def _claimer(self) -> dict[str, Any]:
        """The arguments of every claim."""
        identity = self._identity
        return {
            "owner": identity.owner,
            "worker": identity.worker,
            "host": identity.host,
            "lease_s": self._settings.lease_s,
        }

    def _claim(self, send: Claim, what: str, sent: SentClaim | None) -> tuple[Record | None, float]:
        """Returns the record if this worker has the run now, and the boot time of the call that got it."""
        nonce = secrets.token_hex(8) if sent is None else sent.nonce
        sent_at = 0.0

        def claim() -> tuple[Record | None, str]:
            nonlocal sent, sent_at
            if sent is not None:
                sent_at, answer, sent = sent.sent_at, sent.answer, None
                return answer()
            if self._intake.is_draining:
                return None, "the worker drains"
            sent_at = boot_time_s()
            return send(nonce=nonce, **self._claimer(), **room)

        room: dict[str, Any] = {}

        def claim_one() -> tuple[Record | None, str]:
            nonlocal room
            # A run without needs takes nothing from other claims, so plain claims need not wait for each other.
            room = {"plain": True}
            record, why = self._outage.repeat(claim)
            if why != NOT_PLAIN:
                return record, why
            # Locked until Redis has answered: a claim whose reply was lost may have been given these devices.
            with self._claiming:
                room = {"card": self.free_capacity(), "devices": self._capacity.free().devices}
                record, why = self._outage.repeat(claim)
                if record is not None:
                    self._hold(record)
            return record, why

        record, why = claim_one()
        if isinstance(why, NotConsumed):
            send = partial(self._store.claim, why.run_id, why.seq)
            if why.queue in self._queues():
                # No heartbeat has listed the queue yet, or Redis struck this worker off while it was frozen.
                self._outage.repeat(self._register)
                record, why = claim_one()
            if isinstance(why, NotConsumed):
                # The producer of an item has no say in which worker executes the run.
                self._put_back(why.run_id, why.seq)
        if record is None and why:
            log.info("run.claim_refused %s: %s", what, why)
        return record, sent_at

    def _put_back(self, run_id: str, seq: int) -> None:
        try:
            self._store.put_back(run_id, seq)
        except LaunchError as error:
            log.warning("run.item_dropped run=%s: it is published again later. %s", run_id, error)

    def _note_start(self, attempt: Attempt, pid: int) -> None:
        record = attempt.record
        if attempt.job is not None and attempt.job.exited is not None and not attempt.has_phases:
            return  # reported with the end
        attempt.is_start_noted = True
        try:
            self._store.started(record.id, record.token, pid=pid)
        except BrokerUnavailableError:
            log.warning("run.start_unnoted run=%s pid=%d: Redis is away", record.id, pid)

    def _note_phase(self, attempt: Attempt, phase: str, reason: str) -> None:
        record = attempt.record
        attempt.has_phases = True
        try:
            self._store.phase(record, phase, reason=reason)
        except BrokerUnavailableError:
            log.warning("run.phase_unnoted run=%s phase=%s: Redis is away", record.id, phase)

    def _note_word(self, attempt: Attempt, word: Word, outcome: Outcome | None) -> None:
        """Act on a word of the job. With a `Finish` its run has ended, unless the run will be tried again."""
        if isinstance(word, Preempting):
            attempt.record = replace(attempt.record, yields=True)
        if outcome is None:
            return
        step = self._next_step(attempt, outcome)
        if step.retry_delay_s is None:
            # A run that is tried again ends with its processes: the next attempt must not begin beside them.
            attempt.finished = True
            threading.Thread(
                target=self._finish_early,
                args=(attempt, step, boot_time_s()),
                name=f"finish-{attempt.record.id}",
                daemon=True,
            ).start()

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
                    record, step, owner=self._identity.owner, ended_ago_s=boot_time_s() - ended_s
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
                self._ship(growing, by=by, repeat=repeat)

    def _ship(self, growing: Growing, *, by: Callable[[Growing], object], repeat: Repeat) -> None:
        try:
            repeat(lambda: by(growing))
        except DamagedError as error:
            log.error("log.not_kept run=%s: %s", growing.run_id, error)

    def _leave(self, attempt: Attempt) -> None:
        """Leave a job to the next worker; its guard ends it when no worker renews its lease."""
        log.warning("run.detached run=%s attempt=%d: its job goes on", attempt.record.id, attempt.record.attempt)
        if attempt.job is not None:
            attempt.job.leave()
        try:
            attempt.folder.keep_record(attempt.record)
        except OSError as error:
            log.error("run.record_not_kept run=%s: %s", attempt.record.id, error)
        self._left.append(attempt)

    def _report(self, attempt: Attempt, outcome: Outcome, keep: Callable[[], None]) -> Ended:
        record, ended_s = attempt.record, boot_time_s()
        self._intake.note(record, outcome)
        step = self._next_step(attempt, outcome)
        deliver: Repeat = partial(self._deliver, attempt, step, ended_s)
        if not _is_kept_by_guard(attempt, outcome):
            deliver = self._outage.repeat
            attempt.folder.write_report(record, step, owner=self._identity.owner, ended_s=ended_s)
        attempt.ended = True
        if attempt.job is not None:
            attempt.job.dispose()
        self._capacity.release(attempt.key)
        pid = attempt.job.pid if attempt.job is not None and not attempt.is_start_noted else None
        try:
            self._ship_rest(attempt, by=self._context.logs.finish, repeat=deliver)
            deliver(keep)
            accepted = deliver(lambda: self._finish(record, step, pid, boot_time_s() - ended_s))
        except BrokerUnavailableError:
            log.warning("run.report_kept run=%s: the next worker on this machine delivers it", record.id)
            return outcome.state, outcome
        attempt.folder.remove()
        if not accepted:
            log.warning("run.late_report_refused run=%s attempt=%d", record.id, record.attempt)
            return None
        state = outcome.state if step.retry_delay_s is None else RunState.PENDING
        log.info("run.ended run=%s attempt=%d state=%s reason=%s", record.id, record.attempt, state, outcome.reason)
        return state, outcome

    def _deliver(self, attempt: Attempt, step: NextStep, ended_s: float, call: Callable[[], T]) -> T:
        """Call as `Outage.repeat` does, for an end that is on no disk: the first failure writes it there."""
        try:
            return call()
        except BrokerUnavailableError:
            attempt.folder.write_report(attempt.record, step, owner=self._identity.owner, ended_s=ended_s)
            return self._outage.repeat(call)

    def _next_step(self, attempt: Attempt, outcome: Outcome) -> NextStep:
        record = attempt.record
        return next_step(
            outcome,
            spec=attempt.spec,
            attempt=record.attempt,
            first_attempt=record.first_attempt,
            preemptions=record.preemptions,
            misstarts=record.misstarts,
        )

    def _finish(self, record: Record, step: NextStep, pid: int | None = None, ended_ago_s: float | None = None) -> bool:
        return self._store.finish(
            record, step, owner=self._identity.owner, card=self.free_capacity(), pid=pid, ended_ago_s=ended_ago_s
        )

    def lease(self, record: Record, spec: RunSpec, *, renewed_at: float) -> Lease:
        """The lease of a job, renewed at a boot time, as its guard must enforce it.

        None where no other worker is given the run. A run with retries left is given to another worker once its lease
        ran out, so its job must be gone by then.
        """
        is_retried = has_retries_left(
            spec, attempt=record.attempt, first_attempt=record.first_attempt, after=RunState.CRASHED
        )
        # A run that called itself preempted is given to another worker too.
        if not (is_retried or record.yields):
            return None
        return _guarded(spec, renewed_at=renewed_at, lease_s=self._settings.lease_s)

    def lease_of(self, record: Record, *, renewed_at: float) -> Lease:
        """The lease of an attempt by its record alone. Raises InputError for a damaged one."""
        return self.lease(record, parse_spec(record.spec), renewed_at=renewed_at)


def _is_kept_by_guard(attempt: Attempt, outcome: Outcome) -> bool:
    """Whether recovery would find the same outcome in what the job's guard writes down when its worker dies."""
    exited = None if attempt.job is None else attempt.job.exited
    if exited is None or not exited.is_kept or exited.status is None:
        return False
    return outcome == outcome_of_exit(exited.status, preempt_exit_code=attempt.spec.preempt_exit_code)


def _key(record: Record) -> str:
    """The `Attempt.key` of the record's attempt."""
    return f"{record.id}.{record.attempt}"


def _local(record: Record, answered_at: float) -> float | None:
    """The boot time at which a run that was claimed early may start, by the server's clock; None for at once."""
    if record.start_at is None or record.started_at is None:
        return None
    return answered_at + (record.start_at - record.started_at) / 1e6


def _guarded(spec: RunSpec, *, renewed_at: float, lease_s: float) -> Lease:
    """The boot times of SIGTERM and SIGKILL for a job whose lease was renewed at a boot time."""
    kill_at = renewed_at + lease_s - min(1.0, lease_s / 10)
    return kill_at - min(spec.grace_s, lease_s / 4), kill_at
