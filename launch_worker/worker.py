"""What makes a Celery worker a launch worker: the agent's life, the drain on shutdown, revoke as cancel."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NoReturn

import click
from celery import bootsteps, platforms
from celery.exceptions import CPendingDeprecationWarning
from celery.signals import celeryd_after_setup
from celery.worker import state as worker_state
from celery.worker.control import inspect_command
from celery.worker.request import Request
from kombu.exceptions import OperationalError
from kombu.message import Message

from launch_worker.agent import LaunchAgent
from launch_worker.api import Api
from launch_worker.celery import app, settings
from launch_worker.errors import LaunchError
from launch_worker.retry import Outcome
from launch_worker.run import Record
from launch_worker.spec import MAINTENANCE_QUEUE
from launch_worker.states import RunState
from launch_worker.units import parse_duration

log = logging.getLogger("launch_worker.worker")

# It warns at each reconnect of tasks with late acknowledgement, which we have not.
warnings.filterwarnings("ignore", category=CPendingDeprecationWarning, module="celery.worker.consumer")


@celeryd_after_setup.connect  # type: ignore[untyped-decorator]
def consume_maintenance(instance: Any, **_: Any) -> None:
    """Every worker does the beat's work beside its own queues."""
    app.amqp.queues.select_add(MAINTENANCE_QUEUE)


def check_drain_timeout(ctx: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """A usage error instead of a traceback from deep in the worker's start."""
    try:
        if value is not None:
            parse_duration(value, what="--drain-timeout")
    except LaunchError as error:
        raise click.BadParameter(str(error)) from None
    return value


class LaunchSteps(bootsteps.StartStopStep):  # type: ignore[misc]
    """The agent starts with the worker's pool and ends before it."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, quarantine_after: int = 5, **options: Any) -> None:
        super().__init__(parent, **options)
        self.quarantine_after = quarantine_after
        self.agent: LaunchAgent | None = None

    def start(self, parent: Any) -> None:
        pool = parent.pool_cls.__module__
        if pool != "celery.concurrency.thread":
            _give_up(f"a launch worker needs the threads pool, not {pool.rsplit('.', 1)[-1]}; start it without -P")
        queues = [name for name in app.amqp.queues.consume_from if name != MAINTENANCE_QUEUE]
        config = {
            "worker": parent.hostname,
            "queues": queues,
            "max_jobs": parent.concurrency,
            "on_end": show_end,
            "on_intake": turn_intake,
            "on_drain": lambda: os.kill(os.getpid(), signal.SIGTERM),
            "on_upgrade": lambda: os.kill(os.getpid(), signal.SIGUSR1),
            "on_adopt": lambda record: AdoptedRequest(record, parent).end,
            "quarantine_after": self.quarantine_after,
        }
        self.agent = LaunchAgent(Api(settings=settings), config)
        try:
            self.agent.start()
        except LaunchError as error:
            self.agent = None
            _give_up(str(error))

    def stop(self, parent: Any) -> None:
        # By now the drain has let the jobs end, or it was cut short.
        self._stop()

    def terminate(self, parent: Any) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.agent is not None:
            self.agent.stop()
            self.agent = None
            # All is done: one more signal must not turn the exit status of a clean end into a killed one.
            platforms.signals.ignore("SIGTERM", "SIGINT", "SIGQUIT")


def _give_up(sentence: str) -> NoReturn:
    print(f"launch_worker: {sentence}", file=sys.stderr)
    raise SystemExit(1)


class AdoptedRequest:
    """What Celery is shown of a run that another worker had begun: a task of this one, which takes one of its slots."""

    def __init__(self, record: Record, worker: Any) -> None:
        self._hub = worker.hub
        self._request = RunRequest(
            Message(  # type: ignore[no-untyped-call]
                channel=None,
                headers={"id": record.id, "task": "launch_worker.run", "argsrepr": f"('{record.id}',)"},
                properties={},
                delivery_tag=record.id,
            ),
            app=app,
            hostname=worker.hostname,
            task=app.tasks["launch_worker.run"],
            body=((record.id, 0), {}, {}),
            decoded=True,
        )
        self._request.time_start = time.time()
        self._hub.call_soon(worker_state.task_reserved, self._request)
        self._hub.call_soon(worker_state.task_accepted, self._request)
        self._record = record

    def end(self, ended: tuple[RunState, Outcome] | None) -> None:
        self._hub.call_soon(worker_state.task_ready, self._request)
        if ended is not None:
            show_end(self._record, ended[1])


class Intake(bootsteps.StartStopStep):  # type: ignore[misc]
    """What a worker takes from its queues, and how it stops.

    First SIGTERM or Ctrl-C: take nothing new, let jobs end (with --detach-on-exit: leave them to the next worker, as
    SIGUSR1 does always). A second one, or SIGQUIT: end the jobs. The stock warm
    shutdown blocks the event loop, so that `inspect` and `control` go dead for as long as a job runs; the stock cold
    one leaves the jobs as orphans of a threads pool.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)
    current: ClassVar[Intake | None] = None
    draining: ClassVar[threading.Thread | None] = None

    def __init__(
        self, parent: Any, drain_timeout: str | None = None, detach_on_exit: bool = False, **options: Any
    ) -> None:
        super().__init__(parent, **options)
        self.detach_on_exit = detach_on_exit
        self.timeout_s = None if drain_timeout is None else parse_duration(drain_timeout, what="--drain-timeout")

    def start(self, parent: Any) -> None:
        self.consumer = parent
        Intake.current = self
        # Celery has installed its own by now; they stay ours while the consumer reconnects.
        for name in ("SIGTERM", "SIGINT"):
            platforms.signals[name] = self.on_signal
        platforms.signals["SIGQUIT"] = self.stop_now
        platforms.signals["SIGUSR1"] = self.on_upgrade
        self.turn(LaunchAgent.current().takes_runs)

    def on_signal(self, *_: Any) -> None:
        if Intake.draining is not None:
            self.stop_now()
            return
        self.leave(self.detach if self.detach_on_exit else self.drain)

    def on_upgrade(self, *_: Any) -> None:
        if Intake.draining is None:
            self.leave(self.detach)

    def leave(self, how: Callable[[], None]) -> None:
        # A thread: while Redis is away there is no loop that could wait for the jobs.
        Intake.draining = threading.Thread(target=how, name="launch-drain", daemon=True)
        Intake.draining.start()

    def detach(self) -> None:
        log.warning("worker.detaching: no new runs are taken; those that run are left to the next worker of this name")
        self.turn(False)
        if LaunchAgent.initialized():
            LaunchAgent.current().detach()
        self.stop_now()

    def drain(self) -> None:
        log.warning("worker.draining: no new runs are taken; a second signal ends the jobs")
        self.turn(False)
        if LaunchAgent.initialized() and not LaunchAgent.current().drain(timeout_s=self.timeout_s):
            log.warning("worker.drain_timeout: what still runs is ended")
        self.stop_now()

    def stop_now(self, *_: Any) -> None:
        worker_state.should_stop = 0

    def turn(self, on: bool) -> None:
        """Consume the worker's queues, or leave them alone; from any thread."""
        self.consumer.hub.call_soon(self._turn, on)

    def _turn(self, on: bool) -> None:
        consumed = set(app.amqp.queues.consume_from)
        wanted = {*LaunchAgent.current().queues, MAINTENANCE_QUEUE} if on else set()
        for name in consumed - wanted:
            self.consumer.cancel_task_queue(name)
        for name in wanted - consumed:
            self.consumer.add_task_queue(name)


def turn_intake(on: bool) -> None:
    """The agent's `on_intake`. With no consumer now (Redis is away), the next one starts as the agent says."""
    if Intake.current is not None:
        Intake.current.turn(on)


class RunRequest(Request):  # type: ignore[misc]
    """Celery's revoke and terminate, and Flower's buttons, are a cancel of the run."""

    def terminate(self, pool: Any, signal: Any = None) -> None:
        worker_state.revoked.discard(self.id)
        self._cancel("terminated through Celery")

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:
        """Cold shutdown; the agent's own stop ends the jobs."""

    def revoked(self) -> bool:
        if not super().revoked():
            return False
        # Else a later `launch-worker retry` of the run would be dropped here for ever.
        worker_state.revoked.discard(self.id)
        self._cancel("revoked through Celery")
        return True

    def _cancel(self, reason: str) -> None:
        try:
            LaunchAgent.current().api.store.cancel(self.id, reason=reason)
        except LaunchError as error:
            log.error("run.not_cancelled run=%s: %s", self.id, error)


@inspect_command(default_timeout=2.0)  # type: ignore[untyped-decorator]
def runs(state: Any, **_: Any) -> list[dict[str, Any]]:
    """The runs that each worker executes now."""
    return LaunchAgent.current().snapshot() if LaunchAgent.initialized() else []


def show_end(record: Record, outcome: Outcome) -> None:
    """Flower's picture of a run whose own worker could not draw it: that one died, or Redis was away."""
    shown = f"{outcome.state}: {outcome.reason}"
    if outcome.state is RunState.FINISHED:
        event, facts = "task-succeeded", {"result": outcome.state.value, "runtime": None}
    elif outcome.state is RunState.KILLED:
        event, facts = "task-revoked", {"terminated": True, "signum": outcome.signal or None, "expired": False}
    else:
        event, facts = "task-failed", {"exception": shown, "traceback": None}
    with event_may_be_lost(), app.events.default_dispatcher() as dispatcher:
        dispatcher.send(event, uuid=record.id, **facts)


@contextlib.contextmanager
def event_may_be_lost() -> Iterator[None]:
    """Flower's picture is drawn from events; the records, which decide, do not depend on them."""
    try:
        yield
    except (OperationalError, OSError) as error:
        log.warning("event.lost: %s", error)


app.user_options["worker"].add(
    click.Option(
        ["--drain-timeout"],
        metavar="DUR",
        callback=check_drain_timeout,
        help="How long jobs may go on after SIGTERM (default: no limit); then they are handed back or Killed.",
    )
)
app.user_options["worker"].add(
    click.Option(
        ["--detach-on-exit"],
        is_flag=True,
        help="On SIGTERM leave running jobs to the next worker with this node name, which must start within the lease.",
    )
)
app.user_options["worker"].add(
    click.Option(
        ["--quarantine-after"],
        type=click.IntRange(min=0),
        default=5,
        show_default=True,
        help="Take no runs for a while after so many in a row could not be started; 0 for never.",
    )
)
app.steps["worker"].add(LaunchSteps)
app.steps["consumer"].add(Intake)
