"""Has the last checkpoint of an attempt stored: before its end is reported if another attempt follows, else after."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

from launch_worker.agent.identity import Identity
from launch_worker.attempt.attempt import Attempt
from launch_worker.attempt.checkpoints import End, GivenUpError, Sender, SupersededError, has_states, send_left
from launch_worker.attempt.folder import AttemptFolder
from launch_worker.attempt.restore import executed_in
from launch_worker.attempt.supervise import Cancel, Superseded
from launch_worker.errors import BrokerUnavailableError, InputError, LaunchError
from launch_worker.model.checkpoint import Checkpoint
from launch_worker.model.outcome import Outcome
from launch_worker.model.retry import NextStep
from launch_worker.model.run import Record
from launch_worker.model.spec import RunSpec, parse_spec
from launch_worker.model.states import RunState
from launch_worker.settings import Settings
from launch_worker.store.store import Store

log = logging.getLogger("launch_worker.checkpoints")

#: What people see of an attempt that has ended while its checkpoint is stored.
_PHASE, _REASON = "checkpoint", "its checkpoint is stored for its next attempt"
#: Seconds until a store that failed is tried again.
_RETRY_S = 1.0


class LastCheckpoints:
    """The last checkpoints of one worker's attempts, and of those that dead workers left. Thread-safe."""

    def __init__(
        self,
        identity: Identity,
        *,
        store: Store,
        settings: Settings,
        stopping: threading.Event,
        note_phase: Callable[[Attempt, str, str], None] = lambda *_: None,
    ) -> None:
        """`stopping` is set when the worker ends; `note_phase` notes a part of an attempt that begins."""
        self._identity = identity
        self._store = store
        self._settings = settings
        self._stopping = stopping
        self._note_phase = note_phase
        #: Keys of ended attempts whose last states are being stored.
        self._storing: set[str] = set()

    @property
    def is_behind(self) -> bool:
        """Whether states of ended attempts are being stored."""
        return bool(self._storing)

    # -- this worker's attempts ------------------------------------------------------------------------------------

    def before_end(self, attempt: Attempt, outcome: Outcome, step: NextStep) -> bool:
        """Store the last complete state if another attempt follows; it blocks, and the heartbeat renews the lease.

        Returns whether there is one to be stored after the end (`after_end`). Never raises.
        """
        keeper, follows = attempt.checkpoints, step.retry_delay_s is not None
        if keeper is None:
            return False
        if attempt.job is None or not (follows or outcome.state is not RunState.FINISHED):
            keeper.leave()
            return False
        exited = attempt.job.exited
        status = None if exited is None else exited.status
        if not keeper.conclude(End.of(attempt.folder, status, attempt.spec.preempt_exit_code)):
            keeper.leave()
            return False
        if not follows:
            return True
        self._note_phase(attempt, _PHASE, _REASON)
        unwanted = _Unwanted(attempt, self._stopping)
        if not keeper.wait(timeout_s=self._settings.checkpoint_wait_s, unwanted=unwanted.look):
            log.warning(
                "checkpoint.not_kept run=%s attempt=%d: its end is reported without its last checkpoint",
                attempt.record.id,
                attempt.record.attempt,
            )
        return False

    def after_end(self, attempt: Attempt) -> None:
        """Store the last complete state while others go on, and delete the attempt's folder then; returns at once.

        The machine's next worker does that where this one ends before.
        """

        def store() -> None:
            keeper = attempt.checkpoints
            is_stored = keeper is None or keeper.wait(timeout_s=math.inf, unwanted=self._stopping.is_set)
            # It is wanted no more where the run has a later attempt, or is deleted.
            if is_stored or not self._stopping.is_set():
                attempt.folder.remove()
            self._storing.discard(attempt.key)

        self._storing.add(attempt.key)
        threading.Thread(target=store, name=f"checkpoint-{attempt.record.id}", daemon=True).start()

    # -- what dead workers left ------------------------------------------------------------------------------------

    def of_dead(self, folder: AttemptFolder, record: Record, *, outcome: Outcome | None, step: NextStep | None) -> str:
        """Store the last complete state of an attempt of a dead worker.

        With a `step` that another attempt follows, the end is to be reported yet: the attempt is this worker's
        meanwhile, so that its lease does not run out. Returns the owner who may report the end then; '' for the one who
        could before. Raises BrokerUnavailableError when this worker stops.
        """
        follows = step is not None and step.retry_delay_s is not None
        state = record.state if outcome is None else outcome.state
        if not self._settings.output_url or (state is RunState.FINISHED and not follows) or not has_states(folder):
            return ""
        lease = _Lease(self._identity, self._store, self._settings, record) if follows else None
        until = time.monotonic() + self._settings.checkpoint_wait_s
        sender = Sender(
            self._settings.output_url,
            self._store,
            run_id=record.id,
            attempt=folder.attempt,
            token=folder.token,
            owner="",
            newest=Checkpoint.of(record.checkpoint),
            executed=lambda: executed_in(folder),
        )

        def check() -> None:
            if self._stopping.is_set():
                raise BrokerUnavailableError("this worker stops")
            if time.monotonic() > until:
                raise GivenUpError("it took too long")
            if lease is not None:
                lease.renew()

        exited = folder.read_exit()
        end = End.of(folder, None if exited is None else exited.status, _preempt_exit_code(record))
        while True:
            try:
                check()
                send_left(folder, sender, end, check=check)
            except BrokerUnavailableError:
                raise
            except (SupersededError, GivenUpError) as error:
                log.warning("checkpoint.not_kept run=%s attempt=%d: %s", record.id, folder.attempt, error)
            except (LaunchError, OSError) as error:
                log.warning("checkpoint.not_kept run=%s: %s; it is tried again", record.id, error)
                self._stopping.wait(_RETRY_S)
                continue
            return self._identity.owner if lease is not None and lease.is_held else ""


class _Unwanted:
    """Whether nobody wants the checkpoint of an ended attempt any more."""

    def __init__(self, attempt: Attempt, stopping: threading.Event) -> None:
        self._attempt = attempt
        self._stopping = stopping
        self._is_over = False

    def look(self) -> bool:
        while not self._is_over and not self._attempt.events.empty():
            event = self._attempt.events.get()
            # A run that is cancelled is not tried again.
            self._is_over = isinstance(event, Superseded) or (isinstance(event, Cancel) and not event.preempt)
        return self._is_over or self._stopping.is_set()


class _Lease:
    """The lease of an attempt whose worker is dead, renewed by this worker until it has reported the end."""

    def __init__(self, identity: Identity, store: Store, settings: Settings, record: Record) -> None:
        self._identity = identity
        self._store = store
        self._settings = settings
        self._record = record
        self._renewed_s = -math.inf
        self.is_held = False

    def renew(self) -> None:
        """Renew the lease if it is time. Raises GivenUpError for a run that was cancelled, or has a later attempt."""
        if time.monotonic() - self._renewed_s < self._settings.heartbeat_s:
            return
        self._renewed_s = time.monotonic()
        record, why = self._store.adopt(
            self._record.id,
            self._record.token,
            attempt=self._record.attempt,
            previous_owner="",
            owner=self._identity.owner,
            worker=self._identity.worker,
            host=self._identity.host,
            lease_s=self._settings.lease_s,
        )
        self.is_held = record is not None
        if why == "superseded" or why == "unknown":
            raise GivenUpError("the run has a later attempt")
        if record is not None and record.cancel_at is not None and not record.preempting:
            raise GivenUpError("the run is cancelled")


def _preempt_exit_code(record: Record) -> int:
    """The exit code by which the job says that it was preempted; the usual one for a damaged spec."""
    try:
        return parse_spec(record.spec).preempt_exit_code
    except InputError:
        return RunSpec.preempt_exit_code
