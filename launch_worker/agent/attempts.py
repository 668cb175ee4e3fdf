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
from launch_worker.agent.outage import Outage
from launch_worker.attempt.attempt import Attempt, WorkerContext
from launch_worker.attempt.execute import execute, talk_of
from launch_worker.attempt.supervise import AttemptDetached, AttemptSuperseded, Event, HandBack
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
from launch_worker.store.attempts import NOT_PLAIN, NotConsumed

log = logging.getLogger("launch_worker.jobs")

T = TypeVar("T")

#: `Store.claim` or `Store.claim_next`, but for what both are told.
Claim = Callable[..., tuple[Record | None, str]]


class SentClaim(NamedTuple):
    """A claim that is on its way, and what waits for its answer."""

    nonce: str
    #: By boot time.
    sent_at: float
    answer: Callable[[], tuple[Record | None, str]]


#: Many runs are the same but for their ids.
_spec_of = lru_cache(maxsize=64)(parse_spec)

#: As `Outage.repeat`.
Repeat = Callable[[Callable[[], Any]], Any]

#: The state that the record has after an attempt, and how that ended; None when the run went elsewhere.
Ended = tuple[RunState, Outcome] | None


class Attempts:
    """Executes attempts in their callers' threads, and knows which there are. Thread-safe."""

    def __init__(
        self,
        site: WorkerContext,
        *,
        folder: WorkerFolder,
        outage: Outage,
        slots: int,
        takes_runs: Callable[[], bool],
        is_draining: Callable[[], bool],
        on_outcome: Callable[[Record, Outcome], None],
        inventory: Capacity,
        queues: Callable[[], Sequence[str]],
        register: Callable[[], object],
        prefetch_s: float = 0.0,
    ) -> None:
        """`on_outcome` is told of every end before it is reported. `queues`: those that are consumed now.

        `register` has Redis know that; it raises BrokerUnavailableError.
        """
        self._site = site
        self._store = site.store
        self._folder = folder
        self._outage = outage
        self._slots = slots
        self._takes_runs = takes_runs
        self._is_draining = is_draining
        self._on_outcome = on_outcome
        self._inventory = inventory
        self._queues = queues
        self._register = register
        self._prefetch_s = prefetch_s
        #: From looking at what is free to holding it: one claim at a time, of those that are not plain.
        self._claiming = threading.Lock()
        #: By run and attempt: a superseded attempt may still be ending when this worker has the next one.
        self._attempts: dict[str, Attempt] = {}
        #: What an attempt is told that is entered late, while the worker stops.
        self._ending: Event | None = None
        #: Attempts whose jobs were left to the next worker.
        self._left: list[Attempt] = []
        #: Runs that were ready after this server time are not this worker's; 0 where it takes all.
        self.before_us = 0
        #: Items that are being claimed, executed or reported now.
        self.active = 0
        self._counting = threading.Lock()

    @property
    def attempts(self) -> list[Attempt]:
        """Those that are executed or reported now."""
        return list(self._attempts.values())

    @property
    def are_ended(self) -> bool:
        """Whether all that is missing are reports."""
        attempts = self.attempts
        return len(attempts) == self.active and all(attempt.ended for attempt in attempts)

    @property
    def unended(self) -> list[Attempt]:
        """Those whose jobs have begun, and have not ended as far as anybody knows."""
        return [attempt for attempt in self.attempts if attempt.job is not None and not attempt.ended]

    @property
    def troubled(self) -> list[Attempt]:
        """Those of them of which nobody can know now, as their engine does not answer."""
        return [attempt for attempt in self.unended if attempt.job is not None and attempt.job.trouble]

    @property
    def are_stuck(self) -> bool:
        """Whether all that is missing are jobs of which nobody can know now."""
        attempts = self.attempts
        return len(attempts) == self.active and len(self.troubled) == sum(not attempt.ended for attempt in attempts)

    def are_steady(self, *, adopting: int) -> bool:
        """Whether every job has started and none is being reported. `adopting`: those that are being taken over."""
        attempts = self.attempts
        taken = sum(attempt.is_adopted for attempt in attempts)
        all_run = all(attempt.job is not None and not attempt.ended for attempt in attempts)
        return all_run and len(attempts) == self.active and adopting <= taken

    def card(self) -> FreeCapacity | None:
        """What this worker has left; None while it takes nothing."""
        if not self._takes_runs():
            return None
        free, total = self._inventory.free(), self._inventory.total
        return FreeCapacity(
            owner=self._site.owner,
            queues=tuple(self._queues()),
            slots=max(0, self._slots - self.busy),
            schedulers=self._inventory.free_schedulers,
            gpus=len(free.devices),
            cpus=free.millicores,
            memory=free.memory,
            total=(len(total.devices), total.millicores, total.memory),
            backfill_s=self._site.settings.backfill_s,
            prefetch_s=self._prefetch_s,
            before_us=self.before_us,
        )

    def left_leases(self, *, renewed_at: float) -> dict[str, Lease]:
        """Until when the guards may keep what was left to the next worker."""
        leases: dict[str, Lease] = {}
        for attempt in (*self._left, *self.attempts):
            lease = self.lease(attempt.record, attempt.spec, renewed_at=renewed_at)
            if lease is None and not attempt.folder.is_container:
                # Nobody else takes the run, but no job may run for ever without a worker.
                lease = _guarded(attempt.spec, renewed_at=renewed_at, lease_s=self._site.settings.lease_s)
            leases[attempt.key] = lease
        return leases

    def end_all(self, event: Event) -> None:
        """Tell every job, those included that are just being claimed."""
        self._ending = event
        for attempt in self.attempts:
            attempt.events.put(event)

    def hand_back(self, reason: str) -> None:
        """Give back to their queues those whose jobs have not begun, now and from now on; the others go on."""
        self._ending = self._ending or HandBack(reason)
        for attempt in self.attempts:
            if attempt.job is None:
                attempt.events.put(HandBack(reason))

    def claim(self, run_id: str, seq: int, sent: SentClaim | None = None) -> Attempt | Ended:
        """Claim the run; its attempt has a slot, and its lease is renewed, until `conclude`.

        How it ended when it cannot be executed; None when it is not this worker's, or no slot is free. `sent`: the
        claim of the same run that was sent before.
        """
        return self._take(
            partial(self._store.claim, run_id, seq),
            f"run={run_id}",
            instead=lambda: self._put_back(run_id, seq),
            sent=sent,
        )

    def send_claim(self, run_id: str, seq: int) -> SentClaim | None:
        """Begin to claim the run without waiting for the answer; it has a slot from then on.

        `claim` must follow. None when anything is in the way, which that finds out.
        """
        if not self._takes_runs() or self._is_draining() or not self._take_slot():
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

        None when there is none that can be executed, or anything is in the way: the broker's client finds out.
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
            if sent is None and not (self._takes_runs() and is_free):
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

    def take_over(self, attempt: Attempt) -> None:
        """Have an attempt whose job another worker of this machine started. Raises BrokerUnavailableError."""
        record, output = attempt.record, attempt.folder.output
        bound = attempt.job is not None and not attempt.job.bounds_output
        self._hold(record)
        self._take_slot()
        self._enter(attempt)
        try:
            attempt.tail = self._outage.repeat(
                lambda: self._site.logs.watch(record.id, record.attempt, output, resume=True, bound=bound)
            )
            attempt.talk = talk = talk_of(attempt)
            self._outage.repeat(lambda: talk.resume(self._store))
            self._site.logs.follow(talk)
        except BrokerUnavailableError:
            self._let_go(attempt)
            raise

    @property
    def busy(self) -> int:
        """Slots that are taken: not by schedulers, which are counted apart, nor by what has only to be reported."""
        return max(0, self.active - sum(attempt.ended or attempt.spec.scheduler for attempt in self.attempts))

    def _take_slot(self) -> bool:
        """Whether one was free: runs that were taken over hold slots of which the pool knows nothing."""
        with self._counting:
            is_free = self.busy < self._slots
            self.active += 1
        return is_free

    def _leave_slot(self) -> None:
        with self._counting:
            self.active -= 1

    def _hold(self, record: Record) -> None:
        """What the attempt has of this worker, until it is reported or leaves."""
        if not (record.needs or record.gpus or record.is_scheduler):
            return
        needs = parse_needs(record.needs)
        self._inventory.hold(
            _key(record), record.gpus, needs.millicores, needs.memory, is_scheduler=record.is_scheduler
        )

    def _begin(self, claim: Claim, what: str, sent: SentClaim | None) -> Attempt | Ended:
        """Claim a run; how it ended when it cannot be executed, None when it is not this worker's."""
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
            # Whatever is wrong with it: it has its end, and the slot and what it was to have of the worker are free.
            why = str(error) if isinstance(error, InputError) else f"{type(error).__name__} in the worker: {error}"
            if not isinstance(error, InputError):
                log.exception("run.failed run=%s phase=agent", record.id)
            outcome = Outcome(RunState.FAILED, reason=why, phase="agent", message=why)
            self._inventory.release(_key(record))
            self._outage.repeat(lambda: self._finish(record, NextStep(outcome)))
            return outcome.state, outcome

    def _enter(self, attempt: Attempt) -> None:
        self._attempts[attempt.key] = attempt
        if self._ending is not None:
            attempt.events.put(self._ending)

    def _let_go(self, attempt: Attempt) -> None:
        # Its processes are gone, or it is another worker's.
        self._inventory.release(attempt.key)
        # First: nothing that fails below may keep the slot.
        self._leave_slot()
        del self._attempts[attempt.key]
        for growing in (attempt.tail, attempt.talk):
            if growing is not None:
                self._site.logs.forget(growing)

    def execute(self, attempt: Attempt) -> Outcome:
        """Block until the attempt's job is gone. Raises AttemptSuperseded, AttemptDetached."""
        return execute(
            attempt,
            site=self._site,
            on_started=lambda pid: self._note_start(attempt, pid),
            enter=lambda phase, reason: self._note_phase(attempt, phase, reason),
            on_word=lambda word, outcome: self._heed(attempt, word, outcome),
        )

    def conclude(
        self,
        attempt: Attempt,
        result: Outcome | AttemptDetached | AttemptSuperseded,
        *,
        keep: Callable[[], None] = lambda: None,
    ) -> Ended:
        """Report the end of an attempt, or leave it to whoever has it now; once for each.

        Its slot is free before the report, which is repeated while Redis is away. `keep` sends, before the end is
        told, what else shall be kept with the run.
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
        """Who claims."""
        return {
            "owner": self._site.owner,
            "worker": self._site.worker,
            "host": self._site.host,
            "lease_s": self._site.settings.lease_s,
        }

    def _claim(self, send: Claim, what: str, sent: SentClaim | None) -> tuple[Record | None, float]:
        """The record if it is ours now, and when the call that got it was sent: its lease counts from then."""
        nonce = secrets.token_hex(8) if sent is None else sent.nonce
        sent_at = 0.0

        def claim() -> tuple[Record | None, str]:
            nonlocal sent, sent_at
            if sent is not None:
                sent_at, answer, sent = sent.sent_at, sent.answer, None
                return answer()
            if self._is_draining():
                return None, "the worker drains"
            sent_at = boot_time_s()
            return send(nonce=nonce, **self._claimer(), **left)

        left: dict[str, Any] = {}

        def claim_one() -> tuple[Record | None, str]:
            nonlocal left
            # What needs nothing takes nothing from other claims: they need not wait for each other.
            left = {"plain": True}
            record, why = self._outage.repeat(claim)
            if why != NOT_PLAIN:
                return record, why
            # Until it is answered: a claim whose reply was lost may have been given these devices.
            with self._claiming:
                left = {"card": self.card(), "devices": self._inventory.free().devices}
                record, why = self._outage.repeat(claim)
                if record is not None:
                    self._hold(record)
            return record, why

        record, why = claim_one()
        if isinstance(why, NotConsumed):
            send = partial(self._store.claim, why.run_id, why.seq)
            if why.queue in self._queues():
                # No heartbeat has said so yet, or Redis has forgotten it while this worker was frozen.
                self._outage.repeat(self._register)
                record, why = claim_one()
            if isinstance(why, NotConsumed):
                # Whoever put its item there has no say in who executes it.
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
            return  # told with its end
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

    def _heed(self, attempt: Attempt, word: Word, outcome: Outcome | None) -> None:
        """What the job said of its end. With a `Finish` its run has ended, unless it will be tried again."""
        if isinstance(word, Preempting):
            attempt.record = replace(attempt.record, yields=True)
        if outcome is None:
            return
        step = self._next_step(attempt, outcome)
        if step.retry_delay_s is None:
            # Else the next attempt might begin beside this one.
            attempt.finished = True
            threading.Thread(
                target=self._finish_early,
                args=(attempt, step, boot_time_s()),
                name=f"finish-{attempt.record.id}",
                daemon=True,
            ).start()

    def _finish_early(self, attempt: Attempt, step: NextStep, ended_s: float) -> None:
        """The word is kept on disk: where this does not come to its end, the report or the next worker goes on."""
        record = attempt.record
        try:
            if attempt.job is not None:
                attempt.job.catch_up()
            self._tell_rest(attempt, by=lambda growing: growing.ship(self._store), repeat=self._outage.repeat)
            if self._outage.repeat(
                lambda: self._store.finish(record, step, owner=self._site.owner, ended_ago_s=boot_time_s() - ended_s)
            ):
                log.info("run.finished_itself run=%s attempt=%d", record.id, record.attempt)
        except BrokerUnavailableError:
            log.warning("run.finish_kept run=%s: the next worker on this machine delivers it", record.id)
        except Exception:
            log.exception("run.finish_failed run=%s: it is reported when its processes are gone", record.id)

    def _tell_rest(self, attempt: Attempt, *, by: Callable[[Growing], object], repeat: Repeat) -> None:
        """What its job has told and printed by now. Raises BrokerUnavailableError."""
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
        """The job goes on; its guard may end it when no worker renews its lease."""
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
        self._on_outcome(record, outcome)
        step = self._next_step(attempt, outcome)
        deliver: Repeat = partial(self._deliver, attempt, step, ended_s)
        if not _is_kept_by_guard(attempt, outcome):
            deliver = self._outage.repeat
            attempt.folder.write_report(record, step, owner=self._site.owner, ended_s=ended_s)
        attempt.ended = True
        if attempt.job is not None:
            attempt.job.dispose()
        self._inventory.release(attempt.key)
        pid = attempt.job.pid if attempt.job is not None and not attempt.is_start_noted else None
        try:
            self._tell_rest(attempt, by=self._site.logs.finish, repeat=deliver)
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
        """As `Outage.repeat`, for an end that is not on this worker's disk: it is from the first failure on."""
        try:
            return call()
        except BrokerUnavailableError:
            attempt.folder.write_report(attempt.record, step, owner=self._site.owner, ended_s=ended_s)
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
            record, step, owner=self._site.owner, card=self.card(), pid=pid, ended_ago_s=ended_ago_s
        )

    def lease(self, record: Record, spec: RunSpec, *, renewed_at: float) -> Lease:
        """When the guard must end the job if no renewal follows; None where nobody else may take the run.

        A run with retries left is given to another worker once its lease ran out, so its job must be gone by then.
        """
        is_retried = has_retries_left(
            spec, attempt=record.attempt, first_attempt=record.first_attempt, after=RunState.CRASHED
        )
        # What called itself preempted is given to others too.
        if not (is_retried or record.yields):
            return None
        return _guarded(spec, renewed_at=renewed_at, lease_s=self._site.settings.lease_s)

    def lease_of(self, record: Record, *, renewed_at: float) -> Lease:
        """The same for a record that another worker of this machine claimed."""
        return self.lease(record, parse_spec(record.spec), renewed_at=renewed_at)


def _is_kept_by_guard(attempt: Attempt, outcome: Outcome) -> bool:
    """Whether recovery would come to the same outcome by what the job's guard writes down when its worker dies."""
    exited = None if attempt.job is None else attempt.job.exited
    if exited is None or not exited.is_kept or exited.status is None:
        return False
    return outcome == outcome_of_exit(exited.status, preempt_exit_code=attempt.spec.preempt_exit_code)


def _key(record: Record) -> str:
    """As `Attempt.key`."""
    return f"{record.id}.{record.attempt}"


def _local(record: Record, answered_at: float) -> float | None:
    """The boot time at which a run starts that was claimed ahead of its time: by the server's clock, never early."""
    if record.start_at is None or record.started_at is None:
        return None
    return answered_at + (record.start_at - record.started_at) / 1e6


def _guarded(spec: RunSpec, *, renewed_at: float, lease_s: float) -> Lease:
    kill_at = renewed_at + lease_s - min(1.0, lease_s / 10)
    return kill_at - min(spec.grace_s, lease_s / 4), kill_at
