"""Makes a Celery worker a launch worker: the agent's life, the drain on shutdown, a revoke as a cancel."""

from __future__ import annotations

import logging
import os
import resource
import signal
import threading
from collections.abc import Callable
from typing import Any, ClassVar

from celery import bootsteps, platforms
from celery.signals import after_setup_logger, celeryd_after_setup, worker_init
from celery.worker import state as worker_state

from launch_worker.agent.hooks import Hooks
from launch_worker.agent.launch_agent import LaunchAgent
from launch_worker.agent.queue_watch import QueueWatch
from launch_worker.agent.run_once import run_once
from launch_worker.agent.selection import Selection
from launch_worker.api.client import Api
from launch_worker.celery.application import app, settings
from launch_worker.celery.broker import Channel
from launch_worker.celery.consumer import end_in_time
from launch_worker.celery.events import EVENTS, show_end
from launch_worker.celery.loop import LoopWaker, WakingExecutor
from launch_worker.celery.options import (
    Start,
    announce,
    give_up,
)
from launch_worker.celery.request import AdoptedRequest, RunRequest
from launch_worker.errors import LaunchError
from launch_worker.model.checks import MAINTENANCE_QUEUE
from launch_worker.untrusted.log_line import OneLine

log = logging.getLogger("launch_worker.worker")

#: Open files of an idle worker, and of each job in the worker or its guard, with some to spare.
_FILES, _FILES_OF_A_JOB = 64, 8
#: A limit that is as good as none is no plan.
_JOBS_COUNTED = 4096


_LOOP_TOLD_EVERY_S = 5.0


@after_setup_logger.connect  # type: ignore[untyped-decorator]
def keep_lines(logger: logging.Logger, **_: Any) -> None:
    """Of workers and of beat: neither Celery's lines nor ours may be forged by what others wrote."""
    for handler in logger.handlers:
        handler.addFilter(OneLine())


@worker_init.connect  # type: ignore[untyped-decorator]
def set_slots(sender: Any, **_: Any) -> None:
    """For Celery's own `-c` 0 is the default; its pool has one thread at least."""
    limit = Start.current.config.max_jobs
    if limit is not None:
        sender.concurrency = max(1, limit)
    Start.slots = sender.concurrency if limit is None else limit
    _allow_files(Start.slots, Start.current.config.max_schedulers)


def _allow_files(slots: int, schedulers: int) -> None:
    """Let this process and its guard open as many files as that many jobs need, or say that it may not."""
    jobs = min(max(1, slots), _JOBS_COUNTED) + min(max(0, schedulers), _JOBS_COUNTED)
    wanted = _FILES + _FILES_OF_A_JOB * jobs
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and max(slots, schedulers) >= _JOBS_COUNTED:
        # Without a limit of runs there is no number to hold the machine to.
        wanted = min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard == resource.RLIM_INFINITY or hard >= wanted:
        # No more than that: jobs inherit it, and some go through all numbers up to it.
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return
    fit = (hard - _FILES) // _FILES_OF_A_JOB - min(max(0, schedulers), _JOBS_COUNTED)
    fewer = f", or start it with -c {fit}" if fit > 0 else ""
    give_up(
        f"{slots} runs at once need {wanted} open files, and this worker may have {hard}; raise that (ulimit -n, "
        f"LimitNOFILE= of a systemd unit){fewer}",
        2,
    )


@celeryd_after_setup.connect  # type: ignore[untyped-decorator]
def consume_maintenance(instance: Any, **_: Any) -> None:
    """Every worker does the beat's work beside its own queues."""
    for name in [name for name in app.tasks if name.startswith("celery.")]:
        # Nobody has them executed here.
        app.tasks.unregister(name)
    start, queues = Start.current, app.amqp.queues
    LaunchSteps.queues = start.consumed(queues.consume_from)
    queues.select([*([] if start.takes_by_hand else LaunchSteps.queues), MAINTENANCE_QUEUE])


class LaunchSteps(bootsteps.StartStopStep):  # type: ignore[misc]
    """The agent starts with the worker's pool and ends before it."""

    requires = ("celery.worker.components:Pool",)
    queues: ClassVar[list[str]] = []

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self.agent: LaunchAgent | None = None
        self.queue_watch: QueueWatch | None = None

    def start(self, parent: Any) -> None:
        # Celery's own handler, of a worker without a terminal, starts the worker anew and ends its jobs. No SIG_IGN:
        # jobs would inherit that.
        platforms.signals["SIGHUP"] = lambda *_: None
        start = Start.current
        selection = start.selection or Selection(tuple(self.queues))
        config = start.config.as_dict() | {
            "worker": parent.hostname,
            "queues": self.queues if start.slots else [],
            "max_jobs": start.slots,
        }
        hooks = Hooks(
            on_queues=lambda _: look_again(),
            on_intake=turn_intake,
            on_drain=lambda: os.kill(os.getpid(), signal.SIGTERM),
            on_upgrade=lambda: os.kill(os.getpid(), signal.SIGUSR1),
            on_adopt=lambda record: AdoptedRequest(record, parent, wake=LoopWaker.wake).end,
            on_end=show_end,
            on_schedulers=lambda running: _widen(parent, running),
            on_twin=(lambda _: None) if start.is_silent else announce,
        )
        # Schedulers run beside the slots.
        parent.pool.executor = WakingExecutor(max(1, start.slots) + start.config.max_schedulers)
        self.agent = LaunchAgent(
            Api(settings=settings),
            config,
            hooks=hooks,
            capacity=start.capacity,
            takes_by_hand=start.takes_by_hand,
            ends_if_hung=True,
        )
        LoopWaker.watch_from(parent.hub)
        try:
            self.agent.start()
        except LaunchError as error:
            self.agent = None
            give_up(str(error))
        if not start.takes_by_hand:
            app.amqp.queues.select_add(self.agent.direct_queue)
        self.queue_watch = Intake.queue_watch = QueueWatch(
            self.agent,
            selection,
            excluded=start.excluded,
            on_change=lambda: turn_intake(LaunchAgent.current().takes_runs),
        )
        if start.slots and not start.run_once:
            self.queue_watch.start()
        if not start.is_silent:
            announce(selection.describe())

    def close(self, parent: Any) -> None:
        # The first step of a worker's end: what is told of the jobs' ends now still has a connection.
        self._stop(parent)

    def stop(self, parent: Any) -> None:
        self._stop(parent)

    def terminate(self, parent: Any) -> None:
        self._stop(parent)

    def _stop(self, parent: Any) -> None:
        if self.agent is not None:
            if self.queue_watch is not None:
                self.queue_watch.stop()
            self.agent.stop(reason=f"the worker shut down {Intake.why}".rstrip())
            self.agent = None
            # By now the drain has let the jobs end, or it was cut short.
            end_in_time(parent.exitcode or 0)
            announce("Agent stopped!")
            # All is done: one more signal must not turn the exit status of a clean end into a killed one.
            platforms.signals.ignore("SIGTERM", "SIGINT", "SIGQUIT")


def _widen(worker: Any, schedulers: int) -> None:
    """Have Celery take so many tasks more at once; from any thread."""
    worker.max_concurrency = max(1, Start.slots) + schedulers
    # Its loop asks before each wait whether it may take one.
    LoopWaker.wake()


def turn_intake(on: bool) -> None:
    """The agent's `on_intake`. With no consumer now (Redis is away), the next one starts as the agent says."""
    if Intake.current is not None:
        Intake.current.turn(on)


def open_queues() -> list[str]:
    """Those that a slot may take its next run of: what Celery consumes now."""
    if Start.current.takes_by_hand or Intake.draining is not None or not LaunchAgent.initialized():
        return []
    consumed = app.amqp.queues.consume_from
    return [name for name in LaunchAgent.current().queues if name in consumed]


RunRequest.open_queues = staticmethod(open_queues)


def look_again() -> None:
    """The agent's `on_queues`: a queue was made, changed or deleted."""
    if Intake.queue_watch is not None:
        Intake.queue_watch.wake()


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
    queue_watch: ClassVar[QueueWatch | None] = None
    has_passed: ClassVar[bool] = False
    #: How it was told to leave, where that was no signal.
    why: ClassVar[str] = ""

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self.consumer = parent

    def start(self, parent: Any) -> None:
        Intake.current = self
        # Celery has installed its own by now; they stay ours while the consumer reconnects.
        for name in ("SIGTERM", "SIGINT"):
            platforms.signals[name] = self.on_signal
        platforms.signals["SIGQUIT"] = self.on_quit
        platforms.signals["SIGUSR1"] = self.on_upgrade
        EVENTS.open(parent)
        # Celery cancels it with the connection, and this starts anew with the next one.
        parent.timer.call_repeatedly(_LOOP_TOLD_EVERY_S, LaunchAgent.current().note_loop)
        self.turn(LaunchAgent.current().takes_runs)
        look_again()
        if Start.current.run_once and not Intake.has_passed:
            Intake.has_passed = True
            threading.Thread(target=self.pass_once, name="launch-once", daemon=True).start()

    def stop(self, parent: Any) -> None:
        EVENTS.close()

    def pass_once(self) -> None:
        """Run what is due, then leave."""
        assert Intake.queue_watch is not None
        run_once(
            LaunchAgent.current(),
            look=Intake.queue_watch.look,
            slots=Start.slots,
            strict_order=Channel.strict_order,
            on_end=show_end,
        )
        if Intake.draining is None and Intake.current is not None:
            Intake.current.leave(Intake.current.drain)

    def on_signal(self, *_: Any) -> None:
        if Intake.draining is not None:
            self.on_quit()
            return
        self.leave(self.detach if Start.current.config.detach_on_exit else self.drain)

    def on_quit(self, *_: Any) -> None:
        if LaunchAgent.initialized():
            LaunchAgent.current().hurry()
        self.stop_now()

    def on_upgrade(self, *_: Any) -> None:
        if Intake.draining is None:
            self.leave(self.detach)

    def leave_for(self, why: str) -> None:
        """Drain, and have what is ended after the drain's time say why."""
        Intake.why = why
        self.leave(self.drain)

    @staticmethod
    def takes_by_hand() -> bool:
        return Start.current.takes_by_hand

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
        how = f" {Intake.why}" if Intake.why else ""
        log.warning("worker.draining%s: no new runs are taken; a second signal ends the jobs", how)
        self.turn(False)
        if LaunchAgent.initialized() and not LaunchAgent.current().drain(timeout_s=Start.current.config.drain_timeout):
            log.warning("worker.drain_timeout: what still runs is ended")
        self.stop_now()

    def stop_now(self, *_: Any) -> None:
        worker_state.should_stop = 0

    def turn(self, on: bool) -> None:
        """Consume the worker's queues, or leave them alone; from any thread."""
        self.consumer.hub.call_soon(self._turn, on)

    def _turn(self, on: bool) -> None:
        # The hub may have been asked before a drain began, or while a worker stops.
        if not LaunchAgent.initialized():
            return
        agent = LaunchAgent.current()
        wanted = []
        if on and agent.takes_runs and Intake.draining is None:
            by_celery = [] if Start.current.takes_by_hand else [agent.direct_queue, *agent.queues]
            wanted = [MAINTENANCE_QUEUE, *by_celery]
        consumed = list(app.amqp.queues.consume_from)
        for name in consumed:
            if name not in wanted:
                self.consumer.cancel_task_queue(name)
        for name in wanted:
            if name not in consumed:
                self.consumer.add_task_queue(name)


app.steps["worker"].add(LaunchSteps)
app.steps["consumer"].add(Intake)
