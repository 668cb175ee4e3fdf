"""Ends a worker: it drains, or leaves its jobs to the next worker, then it stops."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time

from launch_worker.agent.attempts import Attempts
from launch_worker.agent.guards import Guards
from launch_worker.agent.heartbeat import Heartbeat
from launch_worker.agent.identity import Identity
from launch_worker.agent.intake import Intake
from launch_worker.agent.leases import leases_without_worker
from launch_worker.agent.outage import BACKOFF_CAP_S, Outage
from launch_worker.agent.probes import Vitals
from launch_worker.agent.recovery import Recovery
from launch_worker.agent.registration import Registration
from launch_worker.agent.reports import Reports
from launch_worker.agent.run_queue_items import RunQueueItems
from launch_worker.agent.workplace import Workplace
from launch_worker.attempt.attempt import Attempt
from launch_worker.attempt.supervise import Detach, Shutdown
from launch_worker.clock import boot_time_s
from launch_worker.errors import BrokerUnavailableError, LaunchError
from launch_worker.settings import Settings
from launch_worker.store.store import Store

log = logging.getLogger("launch_worker.agent")

#: Seconds from the end of the last job's grace to its report.
_LAST_STEPS_S = 10.0
#: Seconds between two warnings that the worker waits for jobs that cannot be ended.
_SAY_AGAIN_S = 30.0
#: Seconds that a worker which leaves its jobs to the next one waits for jobs that are starting or ending.
_START_WAIT_S = 30.0


class WorkerShutdown:
    """The end of one worker; `LaunchAgent` has the same methods, and says what each does."""

    def __init__(
        self,
        identity: Identity,
        *,
        store: Store,
        settings: Settings,
        outage: Outage,
        stopping: threading.Event,
        intake: Intake,
        attempts: Attempts,
        items: RunQueueItems,
        registration: Registration,
        heartbeat: Heartbeat,
        recovery: Recovery,
        guards: Guards,
        workplace: Workplace,
        vitals: Vitals,
        reports: Reports,
    ) -> None:
        """`stopping` is set once nothing of the jobs is left."""
        self._identity = identity
        self._store = store
        self._settings = settings
        self._outage = outage
        self._stopping = stopping
        self._intake = intake
        self._attempts = attempts
        self._items = items
        self._registration = registration
        self._heartbeat = heartbeat
        self._recovery = recovery
        self._guards = guards
        self._workplace = workplace
        self._vitals = vitals
        self._reports = reports
        self._is_detached = False
        #: Event that is set when nobody waits for jobs that cannot be ended.
        self._hurried = threading.Event()
        self._said_waiting_at = -math.inf

    def hurry(self) -> None:
        """Wait no longer for jobs that cannot be ended now."""
        self._hurried.set()

    def drain(self, *, timeout_s: float | None = None) -> bool:
        """Take nothing new, and block until jobs have ended and what they left is stored; False after the timeout."""
        self._stop_intake(ends_at=None if timeout_s is None else time.monotonic() + timeout_s)
        deadline = None if timeout_s is None else boot_time_s() + timeout_s
        if not self._await_jobs(deadline):
            return False
        outputs = self._workplace.outputs
        while outputs is not None and (outputs.is_behind or self._reports.is_behind) and not self._hurried.is_set():
            if deadline is not None and boot_time_s() > deadline:
                break  # the machine's next worker sends the rest
            self._stopping.wait(0.05)
        return True

    def _await_jobs(self, deadline: float | None) -> bool:
        """Block until the jobs have ended; returns False after the deadline."""
        while not self._is_drained:
            if deadline is not None and boot_time_s() > deadline:
                return False
            if self._hurried.is_set() and self._attempts.are_stuck:
                return False
            self._say_waiting()
            self._stopping.wait(0.05)
        return True

    def detach(self) -> None:
        """Take nothing new, and leave the running jobs to the next worker with this node name."""
        self._stop_intake()
        deadline = boot_time_s() + _START_WAIT_S
        # Meanwhile the heartbeat renews all leases.
        while not self._attempts.are_steady(adopting=self._recovery.num_adopting) and boot_time_s() < deadline:
            self._stopping.wait(0.02)
        for attempt in self._attempts.attempts:
            if attempt.job is None:
                attempt.events.put(
                    Shutdown(f"the worker was replaced before the job had started ({self._identity.worker})")
                )
        renewed_at = boot_time_s()
        with contextlib.suppress(BrokerUnavailableError):
            self._registration.renew()
        for at_once in (False, True):
            for attempt in self._attempts.attempts:
                if attempt.job is not None:
                    attempt.events.put(Detach(at_once=at_once))
            deadline = boot_time_s() + min(_LAST_STEPS_S, self._settings.lease_s / 4)
            while self._attempts.active and boot_time_s() < deadline:
                self._stopping.wait(0.02)
        left = [*self._attempts.left, *self._attempts.attempts]
        self._guards.renew(leases_without_worker(left, renewed_at=renewed_at, lease_s=self._settings.lease_s))
        self._guards.detach()
        self._is_detached = True

    def stop(self, *, reason: str) -> None:
        """End what still runs, then leave; see `LaunchAgent.stop`."""
        left: list[Attempt] = []
        self._vitals.note_loop(False)
        if not self._is_detached:
            self._end_jobs(f"{reason} ({self._identity.worker})")
            left = self._leave_unended()
        self._stopping.set()
        deadline = boot_time_s() + BACKOFF_CAP_S
        while self._attempts.active and boot_time_s() < deadline:
            time.sleep(0.02)
        self._workplace.logs.close()
        if self._workplace.outputs is not None:
            self._workplace.outputs.close(at_once=self._is_detached or self._hurried.is_set())
        self._workplace.usage.close()
        self._heartbeat.join()
        # After the last heartbeat, which would take the runs back.
        self._hold(left)
        if not self._is_detached:
            self._recovery.close()
            self._workplace.runner.close()
        try:
            self._registration.end()
        except BrokerUnavailableError as error:
            log.warning("worker.goodbye_unsaid %s", error)
        self._workplace.folder.release()

    def _stop_intake(self, *, ends_at: float | None = None) -> None:
        """Take nothing new; claimed runs whose jobs have not begun go back to their queues.

        `ends_at` is the monotonic time at which the worker ends the others; None where it does not.
        """
        self._intake.drain()
        self._items.return_claimed()
        self._attempts.hand_back(f"its worker stopped before it had begun ({self._identity.worker})", ends_at=ends_at)
        self._recovery.halt()

    @property
    def _is_drained(self) -> bool:
        return not self._attempts.active or (self._outage.is_on and self._attempts.are_ended)

    def _say_waiting(self) -> None:
        trouble = self._attempts.trouble
        if trouble and time.monotonic() - self._said_waiting_at > _SAY_AGAIN_S:
            self._said_waiting_at = time.monotonic()
            log.warning(
                "worker.waits: this worker %s. A second signal leaves them; they are given to no other machine then "
                "until a worker of this one has looked, or somebody says launch-worker confirm RUN ended",
                trouble,
            )

    def _end_jobs(self, reason: str) -> None:
        """End all jobs, those that outlive their grace by force, and wait for those that cannot be ended now."""
        self._attempts.end_all(Shutdown(reason))
        longest_grace_s = max((attempt.spec.grace_s for attempt in self._attempts.attempts), default=0.0)
        self._stop_intake()
        if not self._await_jobs(boot_time_s() + longest_grace_s + _LAST_STEPS_S):
            self._attempts.end_all(Shutdown(reason, grace_s=0.0))
            self._await_jobs(boot_time_s() + _LAST_STEPS_S)
        try:
            while not self._is_drained and not self._hurried.is_set():
                self._say_waiting()
                self._hurried.wait(0.05)
        except KeyboardInterrupt:
            self.hurry()

    def _leave_unended(self) -> list[Attempt]:
        """Supervise the jobs that have not ended no more; returns their attempts."""
        left = self._attempts.unended
        for attempt in left:
            attempt.events.put(Detach(at_once=True))
        return left

    def _hold(self, left: list[Attempt]) -> None:
        """Have Redis give the runs of these attempts, whose jobs may live, to no other machine."""
        for attempt in left:
            record = attempt.record
            try:
                word = self._store.hold(record.id, record.token, owner=self._identity.owner)
            except LaunchError as error:
                log.error("run.not_held run=%s: its lease decides what becomes of it. %s", record.id, error)
                continue
            log.warning("run.left run=%s attempt=%d: its job may live; it is %s", record.id, record.attempt, word)
            if word == "held":
                # No other machine is given the run, so the job need not end with its lease.
                self._guards.renew({attempt.key: None})
