"""Claims runs for a worker: takes a slot, asks Redis for the run, and makes its attempt."""

from __future__ import annotations

import logging
import queue
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

from launch_worker.agent.attempts import Attempts, Ended
from launch_worker.agent.capacity import Capacity
from launch_worker.agent.identity import Identity
from launch_worker.agent.intake import Intake
from launch_worker.agent.leases import held_until, lease_of
from launch_worker.agent.outage import Outage
from launch_worker.agent.registration import Registration
from launch_worker.agent.reports import Reports
from launch_worker.agent.signatures import Signatures
from launch_worker.agent.workplace import Workplace
from launch_worker.attempt.attempt import Attempt
from launch_worker.clock import boot_time_s
from launch_worker.errors import BrokerUnavailableError, DamagedError, InputError, LaunchError
from launch_worker.model.outcome import Outcome
from launch_worker.model.retry import NextStep
from launch_worker.model.run import Record
from launch_worker.model.spec import parse_spec
from launch_worker.model.states import RunState
from launch_worker.model.worker import FreeCapacity
from launch_worker.settings import Settings
from launch_worker.store.attempts import NOT_PLAIN, Claimer, NotConsumed
from launch_worker.store.store import Store

log = logging.getLogger("launch_worker.jobs")

#: Record of a claimed run; or None, and why the claim was refused.
Answer = tuple[Record | None, str]

#: Reader of specs; many runs have the same one.
_spec_of = lru_cache(maxsize=64)(parse_spec)


class SentClaim(NamedTuple):
    """A claim that was sent, and whose answer was not read."""

    nonce: str
    #: Boot time of the call, seconds: the lease counts from then.
    sent_at: float
    #: Blocks until Redis has answered.
    answer: Callable[[], Answer]


@dataclass
class _Claim:
    """One claim of a slot, which is the same for Redis however often it is sent."""

    #: `Store.claim` or `Store.claim_next` with their own arguments bound; the common ones are added at the call.
    send: Callable[..., Answer]
    nonce: str
    #: Claim that was sent, until its answer is read.
    sent: SentClaim | None = None
    #: Boot time of the latest call, seconds.
    sent_at: float = 0.0


class NextClaim:
    """The claim of a slot's next run, made with the report of its last one; one for each report, in its thread."""

    def __init__(self, claims: Claims, lists: Callable[[], Sequence[str]], slot: str) -> None:
        """`lists` gives those to claim from when the report is sent; none where the slot takes no further run."""
        self._claims = claims
        self._lists = lists
        self._slot = slot
        self._nonce = secrets.token_hex(8)
        #: Lists that were asked, and the room the worker had then; the slot is taken from then on.
        self._asked: Sequence[str] = ()
        self._room: FreeCapacity | None = None
        self._sent: SentClaim | None = None

    def finish(self, record: Record, step: NextStep, *, free: FreeCapacity | None, **facts: Any) -> bool:
        """What `Store.finish` does; a repeated call asks for the same run."""
        if free is not None and not self._asked:
            self._asked, self._room = self._claims.lists_with_slot(self._lists), free
        lists: Sequence[str] | None = self._asked or None
        if free is None and self._asked and self._room is not None:
            # The worker drains by now. What an earlier call has claimed, whose answer was lost, is asked for.
            lists, free = (), replace(self._room, slots=0)
        sent_at = boot_time_s()
        accepted, answer = self._claims.finish(record, step, lists, self._slot, self._nonce, free=free, **facts)
        if answer is not None:
            self._sent = SentClaim(self._nonce, sent_at, lambda: answer)
        return accepted

    def take_up(self) -> Attempt | None:
        """The attempt of the run that was claimed, or None; called once, after the report, whatever became of that."""
        asked, self._asked = self._asked, ()
        if asked and self._sent is None:
            self._claims.leave_slot()
        return self._claims.claim_next(asked, self._slot, self._sent) if self._sent is not None else None

    @property
    def is_answered(self) -> bool:
        """Whether Redis has said which run is next, or that none is."""
        return self._sent is not None


class Claims:
    """Claims runs in their callers' threads; each attempt has a slot and a lease from then on. Thread-safe."""

    def __init__(
        self,
        identity: Identity,
        *,
        store: Store,
        settings: Settings,
        outage: Outage,
        intake: Intake,
        capacity: Capacity,
        attempts: Attempts,
        registration: Registration,
        reports: Reports,
        workplace: Workplace,
        signatures: Signatures,
    ) -> None:
        self._signatures = signatures
        self._store = store
        self._settings = settings
        self._outage = outage
        self._intake = intake
        self._capacity = capacity
        self._attempts = attempts
        self._registration = registration
        self._reports = reports
        self._workplace = workplace
        self._claimer: Claimer = {
            "owner": identity.owner,
            "worker": identity.worker,
            "host": identity.host,
            "lease_s": settings.lease_s,
        }
        #: Lock from reading what is free until that is held: claims that are not plain are made one at a time.
        self._claiming = threading.Lock()

    def claim(self, run_id: str, seq: int, sent: SentClaim | None = None) -> Attempt | Ended:
        """Claim the run; its attempt has a slot, and its lease is renewed, until `Execution.conclude`.

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
        if not self._intake.is_open or self._intake.unable or not self._attempts.take_free_slot():
            return None
        nonce, sent_at, answer = secrets.token_hex(8), boot_time_s(), None
        try:
            answer = self._store.send_claim(run_id, seq, nonce=nonce, **self._claimer)
        except LaunchError as error:
            log.debug("run.claim_unsent run=%s: %s", run_id, error)
        if answer is None:
            self._attempts.leave_slot()
            return None
        return SentClaim(nonce, sent_at, answer)

    def claim_next(self, lists: Sequence[str], slot: str, sent: SentClaim | None = None) -> Attempt | None:
        """Pop and claim the next run of these lists in one step, for a slot that has just concluded one.

        Returns None when no run can be executed, or anything is in the way: the broker's client finds out what. `sent`:
        the same claim that was made already.
        """
        begun = self._take(partial(self._store.claim_next, lists, slot=slot), f"slot={slot}", sent=sent)
        return begun if isinstance(begun, Attempt) else None

    def lists_with_slot(self, lists: Callable[[], Sequence[str]]) -> Sequence[str]:
        """The lists, with a slot for their next run; none where there is no slot, or anything else is in the way."""
        if not self._intake.is_open or self._intake.unable:
            return ()
        found = lists()
        return found if found and self._attempts.take_free_slot() else ()

    def finish(
        self,
        record: Record,
        step: NextStep,
        lists: Sequence[str] | None,
        slot: str,
        nonce: str,
        *,
        free: FreeCapacity | None,
        **end: Any,
    ) -> tuple[bool, Answer | None]:
        """Report an end, and in the same call claim the next run of these lists; no run with None.

        With no list it only asks again what an earlier call with this nonce has claimed. Returns whether the end was
        accepted, and the answer of the claim; None where none was made.
        """
        if free is None or lists is None:
            return self._store.finish(record, step, free=free, **end), None
        host, lease_s = self._claimer["host"], self._claimer["lease_s"]
        return self._store.finish_and_claim(
            record, step, lists=lists, slot=slot, nonce=nonce, host=host, lease_s=lease_s, free=free, **end
        )

    def leave_slot(self) -> None:
        """Leave the slot of `lists_with_slot`, for which no claim was answered."""
        self._attempts.leave_slot()

    def _take(
        self,
        send: Callable[..., Answer],
        what: str,
        *,
        instead: Callable[[], None] = lambda: None,
        sent: SentClaim | None = None,
    ) -> Attempt | Ended:
        """Claim with a slot, which stays taken if an attempt is returned; `instead` is called when none is free."""
        begun: Attempt | Ended = None
        if sent is None and not (self._intake.is_open and self._attempts.take_free_slot()):
            instead()
            return None
        try:
            begun = self._begin(_Claim(send, secrets.token_hex(8) if sent is None else sent.nonce, sent), what)
            if isinstance(begun, Attempt):
                self._attempts.enter(begun)
        except DamagedError as error:
            log.error("run.refused %s: %s", what, error)
            self._store.refuse("", f"the record of a run is damaged ({what}): {error}", b"")
        except BrokerUnavailableError as error:
            log.warning("run.left %s: this worker stops while Redis is away. %s", what, error)
        finally:
            if not isinstance(begun, Attempt):
                self._attempts.leave_slot()
        return begun

    def _begin(self, claim: _Claim, what: str) -> Attempt | Ended:
        """Claim a run; returns how it ended when it cannot be executed, None when it is not this worker's."""
        record, why = self._claim(claim)
        if record is None:
            if why:
                log.info("run.claim_refused %s: %s", what, why)
            return None
        log.info("run.claimed run=%s attempt=%d queue=%s", record.id, record.attempt, record.queue)
        try:
            record.check()
            spec = _spec_of(record.spec)
            is_bound = bool(spec.secrets)
            if self._signatures.needed(record):
                self._signatures.check(record, spec)
                is_bound = True
            if is_bound:
                # Nobody vouches for the commit of an earlier attempt: the code is looked up as the spec names it.
                record = replace(record, commit="")
            return Attempt(
                record=record,
                spec=spec,
                folder=self._workplace.attempt_folder(record),
                events=queue.SimpleQueue(),
                lease=lease_of(record, spec, renewed_at=claim.sent_at, lease_s=self._settings.lease_s),
                held_until=held_until(renewed_at=claim.sent_at, lease_s=self._settings.lease_s),
                start_at=_local(record, boot_time_s()),
                is_bound=is_bound,
            )
        except BrokerUnavailableError:
            self._attempts.release(record)
            raise
        except Exception as error:
            # Whatever is wrong with the record: the run ends, and its slot and devices are free.
            why = str(error) if isinstance(error, InputError) else f"{type(error).__name__} in the worker: {error}"
            if not isinstance(error, InputError):
                log.exception("run.failed run=%s phase=agent", record.id)
            outcome = Outcome(RunState.FAILED, reason=why, phase="agent", message=why)
            self._attempts.release(record)
            self._outage.repeat(lambda: self._reports.finish(record, NextStep(outcome)))
            return outcome.state, outcome

    def _claim(self, claim: _Claim) -> Answer:
        """Claim a run, where Redis does not know this worker as a consumer of its queue after telling Redis."""
        record, why = self._claim_with_needs(claim)
        if isinstance(why, NotConsumed):
            claim.send = partial(self._store.claim, why.run_id, why.seq)
            if why.queue in self._registration.queues:
                # No heartbeat has listed the queue yet, or Redis struck this worker off while it was frozen.
                self._outage.repeat(self._registration.renew)
                record, why = self._claim_with_needs(claim)
            if isinstance(why, NotConsumed):
                # The producer of an item has no say in which worker executes the run.
                self._put_back(why.run_id, why.seq)
        return record, why

    def _claim_with_needs(self, claim: _Claim) -> Answer:
        """Claim a run, and hold what it needs."""
        # A run without needs takes nothing from other claims, so plain claims need not wait for each other.
        if claim.sent is not None or not self._intake.unable:
            record, why = self._send(claim, plain=True)
            if why != NOT_PLAIN:
                return record, why
        # Locked until Redis has answered: a claim whose reply was lost may have been given these devices.
        with self._claiming:
            record, why = self._send(
                claim, free=self._registration.free_capacity(), devices=self._capacity.free().devices
            )
            if record is not None:
                self._attempts.hold(record)
        return record, why

    def _send(self, claim: _Claim, **room: Any) -> Answer:
        """Send a claim until Redis has answered it. `room`: what the run may have of this worker."""

        def send() -> Answer:
            if claim.sent is not None:
                sent, claim.sent = claim.sent, None
                claim.sent_at = sent.sent_at
                return sent.answer()
            if self._intake.is_draining:
                return None, "the worker drains"
            claim.sent_at = boot_time_s()
            return claim.send(nonce=claim.nonce, **self._claimer, **room)

        return self._outage.repeat(send)

    def _put_back(self, run_id: str, seq: int) -> None:
        try:
            self._store.put_back(run_id, seq)
        except LaunchError as error:
            log.warning("run.item_dropped run=%s: it is published again later. %s", run_id, error)


def _local(record: Record, answered_at: float) -> float | None:
    """The boot time at which a run that was claimed early may start, by the server's clock; None for at once."""
    if record.start_at is None or record.started_at is None:
        return None
    return answered_at + (record.start_at - record.started_at) / 1e6
