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
from launch_worker.agent.claims import Claims
from launch_worker.agent.config import AgentConfig
from launch_worker.agent.enforcement import Enforcement
from launch_worker.agent.execution import Execution
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
from launch_worker.agent.reports import Reports
from launch_worker.agent.run_queue_items import Agent as OverridableAgent
from launch_worker.agent.run_queue_items import RunQueueItems
from launch_worker.agent.shutdown import WorkerShutdown
from launch_worker.agent.signatures import Signatures
from launch_worker.agent.status import AgentStatus
from launch_worker.agent.worker_metrics import WorkerMetrics
from launch_worker.agent.workplace import Workplace
from launch_worker.api.client import Api
from launch_worker.maintenance.passes import OnEnd
from launch_worker.model.outcome import Outcome
from launch_worker.model.run import Record
from launch_worker.runners.process.hidden import Hidden
from launch_worker.runners.process.layers import Layers
from launch_worker.settings import Settings
from launch_worker.store.store import Store

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
    workplace: Workplace
    attempts: Attempts
    registration: Registration
    claims: Claims
    status: AgentStatus
    items: RunQueueItems
    polling: Polling
    orders: Orders
    heartbeat: Heartbeat
    recovery: Recovery
    shutdown: WorkerShutdown
    on_end: OnEnd


@dataclass(frozen=True)
class _Shared:
    """What many parts are given."""

    api: Api
    store: Store
    settings: Settings
    config: AgentConfig
    hooks: Hooks
    identity: Identity
    slots: int
    capacity: Capacity
    outage: Outage
    guards: Guards
    intake: Intake
    enforcement: Enforcement
    vitals: Vitals
    #: Event that is set once nothing of the jobs is left.
    stopping: threading.Event
    #: Event that has the next heartbeat at once.
    wake: threading.Event
    #: Seconds without a sign of life after which a guard ends this process and its jobs; None for never.
    hung_after_s: float | None
    on_end: OnEnd


def build(
    agent: Agent,
    api: Api,
    config: AgentConfig,
    hooks: Hooks,
    *,
    worker: str = "",
    capacity: Capacity | None = None,
    is_given_runs: bool = True,
    ends_if_hung: bool = False,
) -> Parts:
    """Make the parts of an agent and connect them; see `LaunchAgent` for the arguments. Raises InputError."""
    shared = _share(api, config, hooks, worker=worker, capacity=capacity, ends_if_hung=ends_if_hung)
    workplace = _workplace(shared)
    attempts = Attempts(slots=shared.slots, capacity=shared.capacity, most_grace_s=config.stopped_run_timeout)
    registration = _registration(shared, workplace, attempts, is_given_runs=is_given_runs)
    reports = _reports(shared, workplace, attempts, registration)
    claims = _claims(shared, workplace, attempts, registration, reports)
    execution = Execution(
        store=shared.store, outage=shared.outage, attempts=attempts, reports=reports, workplace=workplace
    )
    status = AgentStatus(
        shared.identity,
        store=shared.store,
        slots=shared.slots,
        verbosity=config.verbosity,
        attempts=attempts,
        capacity=shared.capacity,
        registration=registration,
    )
    items = _items(agent, shared, attempts, registration, claims, execution, status)
    polling = Polling(agent, config, news=items.news)
    orders = Orders(
        attempts=attempts,
        intake=shared.intake,
        tell_usage=lambda attempt: workplace.usage.ask(attempt),
        on_drain=hooks.on_drain or polling.stop,
        on_upgrade=hooks.on_upgrade or polling.stop,
    )
    heartbeat = _heartbeat(shared, attempts, registration, orders)
    recovery = _recovery(shared, workplace, attempts, items)
    return Parts(
        identity=shared.identity,
        outage=shared.outage,
        vitals=shared.vitals,
        capacity=shared.capacity,
        intake=shared.intake,
        workplace=workplace,
        attempts=attempts,
        registration=registration,
        claims=claims,
        status=status,
        items=items,
        polling=polling,
        orders=orders,
        heartbeat=heartbeat,
        recovery=recovery,
        shutdown=_shutdown(shared, workplace, attempts, registration, items, heartbeat, recovery, reports),
        on_end=shared.on_end,
    )


def _share(
    api: Api, config: AgentConfig, hooks: Hooks, *, worker: str, capacity: Capacity | None, ends_if_hung: bool
) -> _Shared:
    settings = api.settings
    stopping, wake = threading.Event(), threading.Event()
    outage = Outage(stopping)
    intake = Intake(
        settings=settings, quarantine_after=config.quarantine_after, on_change=hooks.on_intake, wake=wake.set
    )
    capacity = capacity or capacity_from_options(
        config.gpus or "none", config.cpus, config.memory, env=os.environ, share=settings.gpus_share
    )
    capacity.max_schedulers = config.max_schedulers
    return _Shared(
        api=api,
        store=api.store,
        settings=settings,
        config=config,
        hooks=hooks,
        identity=Identity.of_this_process(worker),
        slots=1 if config.max_jobs is None else config.max_jobs,
        capacity=capacity,
        outage=outage,
        guards=Guards(),
        intake=intake,
        enforcement=Enforcement(
            store=api.store,
            layers=Layers(settings.work_dir, bwrap=settings.bwrap, hidden=Hidden.of(settings, os.environ)),
            wake=wake.set,
            starts_root=os.geteuid() != 0 or settings.allow_root,
        ),
        vitals=Vitals(
            heartbeat_s=settings.heartbeat_s,
            file=settings.health_file,
            is_away=lambda: outage.is_on,
            why_no_runs=intake.why_closed,
        ),
        stopping=stopping,
        wake=wake,
        hung_after_s=max(_LEAST_HUNG_S, settings.lease_s) if ends_if_hung else None,
        on_end=_logging_failures(hooks.on_end),
    )


def _workplace(shared: _Shared) -> Workplace:
    return Workplace(
        shared.identity,
        store=shared.store,
        settings=shared.settings,
        outage=shared.outage,
        capacity=shared.capacity,
        guards=shared.guards,
        enforcement=shared.enforcement,
        hung_after_s=shared.hung_after_s,
    )


def _registration(shared: _Shared, workplace: Workplace, attempts: Attempts, *, is_given_runs: bool) -> Registration:
    config = shared.config
    is_dynamic = bool(config.match or config.pool or config.tags)
    queues = (() if is_dynamic else ("default",)) if config.queues is None else config.queues
    return Registration(
        shared.identity,
        store=shared.store,
        settings=shared.settings,
        config=config,
        queues=queues,
        slots=shared.slots,
        attempts=attempts,
        capacity=shared.capacity,
        intake=shared.intake,
        enforcement=shared.enforcement,
        guards=shared.guards,
        workplace=workplace,
        vitals=shared.vitals,
        on_twin=shared.hooks.on_twin,
        on_change=lambda: shared.hooks.on_intake(shared.intake.is_open),
        wake=shared.wake.set,
        # Nothing is this worker's before the first `take`, which says until when runs must have been ready.
        before_us=0 if is_given_runs else 1,
    )


def _reports(shared: _Shared, workplace: Workplace, attempts: Attempts, registration: Registration) -> Reports:
    return Reports(
        shared.identity,
        store=shared.store,
        outage=shared.outage,
        intake=shared.intake,
        attempts=attempts,
        workplace=workplace,
        settings=shared.settings,
        stopping=shared.stopping,
        free_capacity=registration.free_capacity,
    )


def _claims(
    shared: _Shared, workplace: Workplace, attempts: Attempts, registration: Registration, reports: Reports
) -> Claims:
    return Claims(
        shared.identity,
        store=shared.store,
        settings=shared.settings,
        outage=shared.outage,
        intake=shared.intake,
        capacity=shared.capacity,
        attempts=attempts,
        registration=registration,
        reports=reports,
        workplace=workplace,
        signatures=Signatures(shared.settings, store=shared.store, outage=shared.outage),
    )


def _items(
    agent: Agent,
    shared: _Shared,
    attempts: Attempts,
    registration: Registration,
    claims: Claims,
    execution: Execution,
    status: AgentStatus,
) -> RunQueueItems:
    return RunQueueItems(
        agent,
        shared.identity,
        api=shared.api,
        config=shared.config,
        slots=shared.slots,
        attempts=attempts,
        claims=claims,
        execution=execution,
        intake=shared.intake,
        registration=registration,
        status=status,
        outage=shared.outage,
        stopping=shared.stopping,
        hooks=shared.hooks,
    )


def _heartbeat(shared: _Shared, attempts: Attempts, registration: Registration, orders: Orders) -> Heartbeat:
    def on_queue(name: str) -> None:
        registration.note_queue(name)
        shared.hooks.on_queues(name)

    return Heartbeat(
        owner=shared.identity.owner,
        store=shared.store,
        settings=shared.settings,
        outage=shared.outage,
        stopping=shared.stopping,
        wake=shared.wake,
        vitals=shared.vitals,
        metrics=WorkerMetrics(
            settings=shared.settings,
            slots=shared.slots,
            vitals=shared.vitals,
            outage=shared.outage,
            attempts=attempts,
            capacity=shared.capacity,
        ),
        renew=registration.renew,
        free_capacity=registration.free_capacity,
        on_order=orders.obey,
        on_queue=on_queue,
        on_end=shared.on_end,
    )


def _recovery(shared: _Shared, workplace: Workplace, attempts: Attempts, items: RunQueueItems) -> Recovery:
    adopter = Adopter(
        shared.identity,
        store=shared.store,
        settings=shared.settings,
        outage=shared.outage,
        containers=workplace.containers,
        attempt_folder=workplace.attempt_folder,
        attempts=attempts,
        carry_on=items.carry_on,
    )
    return Recovery(
        adopter,
        shared.identity,
        store=shared.store,
        settings=shared.settings,
        outage=shared.outage,
        guards=shared.guards,
        hung_after_s=shared.hung_after_s,
        stopping=shared.stopping,
        on_end=shared.on_end,
        send_outputs=workplace.send_outputs,
    )


def _shutdown(
    shared: _Shared,
    workplace: Workplace,
    attempts: Attempts,
    registration: Registration,
    items: RunQueueItems,
    heartbeat: Heartbeat,
    recovery: Recovery,
    reports: Reports,
) -> WorkerShutdown:
    return WorkerShutdown(
        shared.identity,
        store=shared.store,
        settings=shared.settings,
        outage=shared.outage,
        stopping=shared.stopping,
        intake=shared.intake,
        attempts=attempts,
        items=items,
        registration=registration,
        heartbeat=heartbeat,
        recovery=recovery,
        guards=shared.guards,
        workplace=workplace,
        vitals=shared.vitals,
        reports=reports,
    )


def _logging_failures(on_end: OnEnd) -> OnEnd:
    """The callback, made to raise nothing: what becomes of it decides nothing about the run."""

    def call(record: Record, outcome: Outcome) -> None:
        try:
            on_end(record, outcome)
        except Exception:
            log.exception("callback.failed on_end run=%s", record.id)

    return call
