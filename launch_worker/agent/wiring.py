"""Makes the parts of an agent and connects them."""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass
from typing import Protocol

from launch_worker.agent.adoption import Adopter
from launch_worker.agent.attempts import Attempts
from launch_worker.agent.capacity import Capacity
from launch_worker.agent.config import AgentConfig
from launch_worker.agent.gpus import capacity_from_options
from launch_worker.agent.guards import Guards
from launch_worker.agent.heartbeat import Heartbeat
from launch_worker.agent.hooks import Hooks
from launch_worker.agent.identity import Identity
from launch_worker.agent.intake import Intake
from launch_worker.agent.orders import Orders
from launch_worker.agent.outage import Outage
from launch_worker.agent.polling import Agent as PolledAgent
from launch_worker.agent.polling import Polling
from launch_worker.agent.probes import Vitals
from launch_worker.agent.recovery import Recovery
from launch_worker.agent.registration import Registration
from launch_worker.agent.run_queue_items import Agent as OverridableAgent
from launch_worker.agent.run_queue_items import RunQueueItems
from launch_worker.agent.shutdown import WorkerShutdown
from launch_worker.agent.workplace import Workplace
from launch_worker.api.client import Api
from launch_worker.maintenance.passes import OnEnd
from launch_worker.model.outcome import Outcome
from launch_worker.model.run import Record

log = logging.getLogger("launch_worker.agent")

#: Seconds for which a worker may stand still without being called hung, however short the leases are.
_LEAST_HUNG_S = 12.0


class Agent(OverridableAgent, PolledAgent, Protocol):
    """The agent that the parts belong to, as far as they call it."""


@dataclass(frozen=True)
class Parts:
    """What an agent is made of. Nothing of it touches disk or Redis before `workplace.open`."""

    identity: Identity
    outage: Outage
    vitals: Vitals
    capacity: Capacity
    intake: Intake
    attempts: Attempts
    items: RunQueueItems
    orders: Orders
    registration: Registration
    heartbeat: Heartbeat
    recovery: Recovery
    workplace: Workplace
    polling: Polling
    shutdown: WorkerShutdown
    on_end: OnEnd


def build(
    agent: Agent,
    api: Api,
    config: AgentConfig,
    hooks: Hooks,
    *,
    worker: str = "",
    capacity: Capacity | None = None,
    takes_by_hand: bool = False,
    ends_if_hung: bool = False,
) -> Parts:
    """Make the parts of an agent and connect them; see `LaunchAgent` for the arguments. Raises InputError."""
    store, settings = api.store, api.settings
    identity = Identity.of_this_process(worker)
    is_dynamic = bool(config.match or config.pool or config.tags)
    queues = (() if is_dynamic else ("default",)) if config.queues is None else config.queues
    slots = 1 if config.max_jobs is None else config.max_jobs
    capacity = capacity or capacity_from_options(
        config.gpus or "none", config.cpus, config.memory, env=os.environ, share=settings.gpus_share
    )
    capacity.max_schedulers = config.max_schedulers
    hung_after_s = max(_LEAST_HUNG_S, settings.lease_s) if ends_if_hung else None
    stopping, wake = threading.Event(), threading.Event()
    on_end = _logging_failures(hooks.on_end)

    outage = Outage(stopping)
    guards = Guards()
    intake = Intake(
        settings=settings, quarantine_after=config.quarantine_after, on_change=hooks.on_intake, wake=wake.set
    )
    vitals = Vitals(
        heartbeat_s=settings.heartbeat_s,
        file=settings.health_file,
        is_away=lambda: outage.is_on,
        why_no_runs=intake.why_closed,
    )
    workplace = Workplace(
        identity,
        store=store,
        settings=settings,
        outage=outage,
        capacity=capacity,
        guards=guards,
        hung_after_s=hung_after_s,
    )
    attempts = Attempts(
        identity,
        store=store,
        settings=settings,
        config=config,
        slots=slots,
        outage=outage,
        intake=intake,
        capacity=capacity,
        queues=lambda: registration.queues,
        register=lambda: registration.renew(),
        # Nothing is this worker's before the first `take`, which says until when runs must have been ready.
        before_us=1 if takes_by_hand else 0,
    )
    registration = Registration(
        identity,
        store=store,
        settings=settings,
        config=config,
        queues=queues,
        slots=slots,
        attempts=attempts,
        capacity=capacity,
        intake=intake,
        guards=guards,
        workplace=workplace,
        vitals=vitals,
        status=lambda: items.status,
        on_twin=hooks.on_twin,
        wake=wake.set,
    )
    items = RunQueueItems(
        agent,
        identity,
        api=api,
        config=config,
        slots=slots,
        attempts=attempts,
        capacity=capacity,
        intake=intake,
        registration=registration,
        outage=outage,
        stopping=stopping,
        hooks=hooks,
    )
    polling = Polling(agent, config, news=items.news)
    orders = Orders(
        attempts=attempts,
        intake=intake,
        on_drain=hooks.on_drain or polling.stop,
        on_upgrade=hooks.on_upgrade or polling.stop,
    )
    heartbeat = Heartbeat(
        owner=identity.owner,
        store=store,
        settings=settings,
        outage=outage,
        stopping=stopping,
        wake=wake,
        vitals=vitals,
        renew=registration.renew,
        free_capacity=attempts.free_capacity,
        on_order=orders.obey,
        on_queue=hooks.on_queues,
        on_end=on_end,
    )
    adopter = Adopter(
        identity,
        store=store,
        settings=settings,
        outage=outage,
        containers=workplace.containers,
        attempts=attempts,
        carry_on=items.carry_on,
    )
    recovery = Recovery(
        adopter,
        identity,
        store=store,
        settings=settings,
        outage=outage,
        guards=guards,
        hung_after_s=hung_after_s,
        stopping=stopping,
        on_end=on_end,
    )
    shutdown = WorkerShutdown(
        identity,
        store=store,
        settings=settings,
        outage=outage,
        stopping=stopping,
        intake=intake,
        attempts=attempts,
        items=items,
        registration=registration,
        heartbeat=heartbeat,
        recovery=recovery,
        guards=guards,
        workplace=workplace,
        vitals=vitals,
    )
    return Parts(
        identity=identity,
        outage=outage,
        vitals=vitals,
        capacity=capacity,
        intake=intake,
        attempts=attempts,
        items=items,
        orders=orders,
        registration=registration,
        heartbeat=heartbeat,
        recovery=recovery,
        workplace=workplace,
        polling=polling,
        shutdown=shutdown,
        on_end=on_end,
    )


def _logging_failures(on_end: OnEnd) -> OnEnd:
    """The callback, made to raise nothing: what becomes of it decides nothing about the run."""

    def call(record: Record, outcome: Outcome) -> None:
        try:
            on_end(record, outcome)
        except Exception:
            log.exception("callback.failed on_end run=%s", record.id)

    return call
