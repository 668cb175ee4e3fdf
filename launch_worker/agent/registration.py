"""Tells Redis of a worker: that it lives, what it has room for, and that it renews the leases of its attempts."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from launch_worker.agent.attempts import Attempts
from launch_worker.agent.capacity import Capacity
from launch_worker.agent.config import AgentConfig
from launch_worker.agent.enforcement import Enforcement
from launch_worker.agent.guards import Guards
from launch_worker.agent.identity import Identity
from launch_worker.agent.intake import Intake
from launch_worker.agent.leases import held_until, lease_of
from launch_worker.agent.probes import Vitals
from launch_worker.agent.signatures import describe_trust
from launch_worker.agent.workplace import Workplace
from launch_worker.attempt.attempt import Attempt
from launch_worker.attempt.supervise import Detach, HandBack, Superseded
from launch_worker.clock import boot_time_s
from launch_worker.errors import BrokerUnavailableError
from launch_worker.model.worker import FreeCapacity
from launch_worker.runners.job import LAPSED, Lease
from launch_worker.runners.process import tree
from launch_worker.settings import Settings
from launch_worker.store.store import Store
from launch_worker.store.workers import Answer, Pulse

log = logging.getLogger("launch_worker.agent")

#: What a worker may say that it does, as W&B names it.
AGENT_POLLING, AGENT_RUNNING, AGENT_KILLED = "POLLING", "RUNNING", "KILLED"
STATUSES = (AGENT_POLLING, AGENT_RUNNING, AGENT_KILLED)


class _Said(NamedTuple):
    """What a heartbeat says of its worker."""

    description: dict[str, Any]
    queues: list[str]
    free: FreeCapacity | None


class Registration:
    """Lists a worker as a consumer of its queues, and renews all its leases in one call."""

    def __init__(
        self,
        identity: Identity,
        *,
        store: Store,
        settings: Settings,
        config: AgentConfig,
        queues: Sequence[str],
        slots: int,
        attempts: Attempts,
        capacity: Capacity,
        intake: Intake,
        enforcement: Enforcement,
        guards: Guards,
        workplace: Workplace,
        vitals: Vitals,
        on_twin: Callable[[str], None],
        on_change: Callable[[], None],
        wake: Callable[[], None],
        before_us: int,
    ) -> None:
        """`wake` has the next heartbeat at once; `on_change` is called when other queues are refused than before.

        `before_us`: see the attribute.
        """
        self._identity = identity
        self._store = store
        self._settings = settings
        self._config = config
        #: Queues that the worker is to consume, also those that it refuses.
        self._selected = list(queues)
        self._slots = slots
        self._attempts = attempts
        self._capacity = capacity
        self._intake = intake
        self._enforcement = enforcement
        self._guards = guards
        self._workplace = workplace
        self._vitals = vitals
        self._on_twin = on_twin
        self._on_change = on_change
        self._wake = wake
        #: Server time, microseconds, after which a run must not have become ready to be this worker's; 0 for no limit.
        self.before_us = before_us
        #: Status of the agent, one of `STATUSES`.
        self.status = AGENT_POLLING
        self._is_listed = False
        #: What Redis was told last, and the boot time (seconds) at which; None where that is not known.
        self._said: _Said | None = None
        self._said_at = 0.0
        #: Slots that had ever been taken by then: since a claim Redis may have another number of free ones.
        self._taken_before = 0
        #: Lock without which a heartbeat on its way would list dropped queues again.
        self._listing = threading.Lock()
        self._has_looked_for_twins = False

    @property
    def queues(self) -> list[str]:
        """The queues that this worker consumes, without the system's own and those that it refuses."""
        refused = self._enforcement.refused
        return [name for name in self._selected if name not in refused]

    @property
    def selected(self) -> list[str]:
        """The queues that this worker is to consume."""
        return list(self._selected)

    def set_queues(self, queues: Sequence[str]) -> None:
        """Consume these queues from now on."""
        with self._listing:
            dropped = [name for name in self._selected if name not in queues]
            self._selected = list(queues)
            self._enforcement.note_news()
            self._said = None
            if dropped:
                with contextlib.suppress(BrokerUnavailableError):
                    self._store.forget_consumer(self._identity.owner, dropped)
        self._wake()

    def note_queue(self, queue: str) -> None:
        """Look, at the next heartbeat, what a queue asks of this worker that was made, configured or deleted."""
        if queue in self._selected:
            # Redis forgets the consumers of a deleted queue.
            self._said = None
            self._enforcement.note_news()
            self._wake()

    def _refuse(self) -> None:
        """Leave alone the queues that ask for what this machine cannot do. Raises BrokerUnavailableError."""
        with self._listing:
            is_changed = self._enforcement.look(self._selected)
            if is_changed and self._enforcement.refused:
                self._store.forget_consumer(self._identity.owner, list(self._enforcement.refused))
        if is_changed:
            self._on_change()

    def free_capacity(self) -> FreeCapacity | None:
        """What the worker has room for; None while it takes no runs."""
        if not self._intake.is_open:
            return None
        free, total = self._capacity.free(), self._capacity.total
        return FreeCapacity(
            owner=self._identity.owner,
            queues=tuple(self.queues),
            slots=self._attempts.free_slots,
            schedulers=self._capacity.free_schedulers,
            gpus=len(free.devices),
            cpus=free.millicores,
            memory=free.memory,
            total=(len(total.devices), total.millicores, total.memory),
            backfill_s=self._settings.backfill_s,
            prefetch_s=self._config.prefetch_seconds,
            before_us=self.before_us,
            unable=self._intake.unable,
        )

    def renew(self) -> Pulse:
        """Renew the leases of all attempts in one call, and act on the answer for each.

        Raises BrokerUnavailableError.
        """
        identity, settings = self._identity, self._settings
        self._intake.look()
        self._workplace.tidy()
        self._refuse()
        if not self._intake.is_open and self._is_listed:
            # A listed worker makes submitters believe that its queues are consumed.
            self._store.goodbye(identity.owner, queues=self._selected, stays=True)
        self._is_listed = self._intake.is_open
        attempts = self._held()
        renewed_at = boot_time_s()
        gone_s = max(settings.lease_s, 3 * settings.heartbeat_s)
        with self._listing:
            said = _Said(self._description(), self.queues if self._is_listed else [], self.free_capacity())
            is_news = self._is_news(said, gone_s=gone_s)
            # What Redis has is not known before it has answered.
            self._said = None
            taken = self._attempts.taken
            pulse = self._store.heartbeat(
                [(attempt.record.id, attempt.record.token, attempt.record.attempt) for attempt in attempts],
                owner=identity.owner,
                worker=identity.worker,
                lease_s=settings.lease_s,
                gone_s=gone_s,
                description=said.description if is_news else None,
                queues=said.queues,
                free=said.free,
            )
            if is_news:
                self._said_at, self._taken_before = renewed_at, taken
            self._said = said
        leases: dict[str, Lease] = {}
        for attempt, answer in zip(attempts, pulse.answers, strict=True):
            self._act_on(attempt, answer)
            if answer.word in ("ended", "adopted") and attempt.is_over:
                # What is left of the job takes nothing from any other worker.
                leases[attempt.key] = attempt.lease = None
            elif answer.word in ("ok", "cancel", "preempt"):
                leases[attempt.key] = attempt.lease = lease_of(
                    attempt.record, attempt.spec, renewed_at=renewed_at, lease_s=settings.lease_s
                )
                attempt.held_until = held_until(renewed_at=renewed_at, lease_s=settings.lease_s)
        self._guards.renew(leases)
        if not self._has_looked_for_twins:
            self._look_for_twins()
            self._has_looked_for_twins = True
        return pulse

    def _is_news(self, said: _Said, *, gone_s: float) -> bool:
        """Whether Redis is to be told of the worker again: there is something new, or it would forget it soon."""
        if said != self._said or self._attempts.active or self._attempts.taken != self._taken_before:
            return True
        # Two more heartbeats have their time before the worker counts as gone.
        return boot_time_s() - self._said_at + 2 * self._settings.heartbeat_s >= gone_s

    def end(self) -> None:
        """Have Redis forget the worker. Raises BrokerUnavailableError."""
        self._store.goodbye(self._identity.owner, queues=self._selected)

    def _held(self) -> list[Attempt]:
        """The attempts whose leases are to be renewed: all but those that lapsed before their jobs began.

        To renew one of those would bring its run back to life beside the run that has its place by now. It is given
        back to its queue instead.
        """
        held = []
        for attempt in self._attempts.attempts:
            if attempt.is_lapsed:
                attempt.events.put(HandBack(LAPSED))
            else:
                held.append(attempt)
        return held

    def _act_on(self, attempt: Attempt, answer: Answer) -> None:
        if answer.word in ("cancel", "preempt"):
            self._attempts.cancel(attempt, answer.reason, answer.grace_s, preempt=answer.word == "preempt")
        elif answer.word == "adopted":
            # The record of a run that has ended keeps the name of the worker that it had then.
            if not attempt.is_over:
                attempt.events.put(Detach(at_once=True))
        elif answer.word == "superseded" or (answer.word == "ended" and not attempt.is_over):
            # "ended": a person had the run retried and cancelled while this worker was cut off.
            attempt.events.put(Superseded())
        elif answer.word == "unknown":
            log.warning("run.restored run=%s: Redis had lost it", attempt.record.id)
            self._store.restore(attempt.record, lease_s=self._settings.lease_s, owner=self._identity.owner)

    def _look_for_twins(self) -> None:
        """Say whether other living workers have this one's node name. Raises BrokerUnavailableError."""
        identity = self._identity
        for other in self._store.workers():
            if other["worker"] != identity.worker or other["owner"] == identity.owner or self._is_gone(other):
                continue
            sentence = (
                f"Another worker is called {identity.worker} too (on {other['host']}, pid {other['pid']}): what is "
                "ordered of one, as to drain, reaches both. Give each a name of its own with -n."
            )
            log.warning("worker.twin: %s", sentence)
            self._on_twin(sentence)

    def _is_gone(self, other: Mapping[str, Any]) -> bool:
        """Whether that worker was killed on this machine, and is still listed for a while."""
        if other["host"] != self._identity.host:
            return False
        # A worker with this process's pid is a container's that was started anew.
        found = None if other["pid"] == os.getpid() else tree.look_up(other["pid"])
        return found is None or found.zombie

    def _description(self) -> dict[str, Any]:
        free, total = self._capacity.free(), self._capacity.total
        return {
            "worker": self._identity.worker,
            "owner": self._identity.owner,
            "host": self._identity.host,
            "pid": os.getpid(),
            "queues": self.queues,
            "refused": self._enforcement.refused,
            "layers": self._enforcement.describe(),
            **describe_trust(self._settings),
            "slots": self._slots,
            "running": self._attempts.num_running_jobs,
            "schedulers": self._attempts.num_running_schedulers,
            "max_schedulers": self._config.max_schedulers,
            "entity": self._config.entity,
            "secure_mode": self._config.secure_mode,
            "status": self.status,
            "devices": self._capacity.describe(),
            "cpus": {"total": total.millicores / 1000, "free": free.millicores / 1000},
            "memory": {"total": total.memory, "free": free.memory},
            "state": self._state(),
            "unable": self._intake.unable,
            "problem": "; ".join(
                filter(None, [self._vitals.stuck() or self._intake.problem(), self._attempts.trouble])
            ),
        }

    def _state(self) -> str:
        if self._intake.is_draining:
            return "draining"
        if self._vitals.stuck():
            return "stuck"
        return "running" if self._intake.is_open else "quarantined"
