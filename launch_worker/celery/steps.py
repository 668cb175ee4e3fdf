"""Makes a Celery worker a launch worker: bootsteps for the agent's life, and for each connection of the consumer."""

from __future__ import annotations

import logging
import os
import resource
import signal
from typing import Any

from celery import bootsteps, platforms
from celery.signals import after_setup_logger, celeryd_after_setup, worker_init

from launch_worker.agent.hooks import Hooks
from launch_worker.agent.launch_agent import LaunchAgent
from launch_worker.agent.queue_watch import QueueWatch
from launch_worker.agent.selection import Selection
from launch_worker.api.client import Api
from launch_worker.celery.application import app, settings
from launch_worker.celery.consumer import end_in_time
from launch_worker.celery.events import EVENTS, show_end
from launch_worker.celery.loop import WakingExecutor
from launch_worker.celery.options import announce, give_up
from launch_worker.celery.queue_wait import QueueWait
from launch_worker.celery.request import AdoptedRequest
from launch_worker.celery.worker import LaunchWorker, worker_of
from launch_worker.errors import LaunchError
from launch_worker.model.checks import MAINTENANCE_QUEUE
from launch_worker.untrusted.log_line import OneLine

log = logging.getLogger("launch_worker.worker")

#: Numbers of open files: of an idle worker, and of each job in the worker or its guard; with a reserve.
_FILES, _FILES_OF_A_JOB = 64, 8
#: Number of jobs from which a limit is taken for none.
_JOBS_COUNTED = 4096

#: Seconds between two signs of life of Celery's loop, for the probes.
_NOTE_LOOP_EVERY_S = 5.0


@after_setup_logger.connect  # type: ignore[untyped-decorator]
def keep_lines(logger: logging.Logger, **_: Any) -> None:
    """Keep each record of a worker's or beat's log on one line, so that no text of others can forge a line."""
    for handler in logger.handlers:
        handler.addFilter(OneLine())


@worker_init.connect  # type: ignore[untyped-decorator]
def set_slots(sender: Any, **_: Any) -> None:
    """For Celery's own `-c` 0 is the default; its pool has one thread at least."""
    launch: LaunchWorker = sender.launch_worker
    limit = launch.start.config.max_jobs
    if limit is not None:
        sender.concurrency = max(1, limit)
    launch.slots = sender.concurrency if limit is None else limit
    launch.most_at_once = max(1, launch.slots)
    _allow_files(launch.slots, launch.start.config.max_schedulers)


def _allow_files(slots: int, schedulers: int) -> None:
    """Let this process and its guard open as many files as that many jobs need, or say that it may not."""
    jobs = min(max(1, slots), _JOBS_COUNTED) + min(max(0, schedulers), _JOBS_COUNTED)
    wanted = _FILES + _FILES_OF_A_JOB * jobs
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and max(slots, schedulers) >= _JOBS_COUNTED:
        # Without a limit of runs there is no number that the machine must fulfil.
        wanted = min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard == resource.RLIM_INFINITY or hard >= wanted:
        # Not the hard limit: jobs inherit this one, and some programs go through all numbers up to it.
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
    """Have every worker do the work of beat beside its own queues."""
    for name in [name for name in app.tasks if name.startswith("celery.")]:
        # A launch worker executes none of Celery's own tasks.
        app.tasks.unregister(name)
    launch: LaunchWorker = instance.launch_worker
    queues = app.amqp.queues
    launch.queues = launch.start.consumed(queues.consume_from)
    queues.select([*(launch.queues if launch.start.consumes_runs else []), MAINTENANCE_QUEUE])


class LaunchSteps(bootsteps.StartStopStep):  # type: ignore[misc]
    """The agent, which starts with the worker's pool and ends before it."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self.agent: LaunchAgent | None = None
        self._queue_wait: QueueWait | None = None

    def start(self, parent: Any) -> None:
        # Celery's own handler, of a worker without a terminal, starts the worker anew and ends its jobs. No SIG_IGN:
        # jobs would inherit that.
        platforms.signals["SIGHUP"] = lambda *_: None
        launch: LaunchWorker = parent.launch_worker
        start = launch.start
        selection = start.selection or Selection(tuple(launch.queues))
        # Schedulers run beside the slots, and one thread may wait for the next run.
        threads = max(1, launch.slots) + start.config.max_schedulers + 1
        executor = parent.pool.executor = WakingExecutor(launch.waker, threads)
        self.agent = LaunchAgent(
            Api(settings=settings),
            start.config.as_dict()
            | {"worker": parent.hostname, "queues": launch.queues if launch.slots else [], "max_jobs": launch.slots},
            hooks=_hooks(launch, parent),
            capacity=start.capacity,
            is_given_runs=start.consumes_runs,
            ends_if_hung=True,
        )
        launch.waker.connect(parent.hub)
        try:
            self.agent.start()
        except LaunchError as error:
            self.agent = None
            give_up(str(error))
        if start.consumes_runs:
            app.amqp.queues.select_add(self.agent.direct_queue)
        self._queue_wait = QueueWait(self.agent, launch, executor)
        launch.look_at_lists = self._queue_wait.look
        launch.queue_watch = QueueWatch(
            self.agent,
            selection,
            excluded=start.excluded,
            on_change=launch.turn_intake,
        )
        if launch.slots and not start.run_once:
            launch.queue_watch.start()
        if not start.is_silent:
            announce(selection.describe())

    def close(self, parent: Any) -> None:
        # The first step of a worker's end: events of the jobs' ends still have a connection.
        self._stop(parent)

    def stop(self, parent: Any) -> None:
        self._stop(parent)

    def terminate(self, parent: Any) -> None:
        self._stop(parent)

    def _stop(self, parent: Any) -> None:
        if self.agent is not None:
            launch: LaunchWorker = parent.launch_worker
            if launch.queue_watch is not None:
                launch.queue_watch.stop()
            if self._queue_wait is not None:
                self._queue_wait.stop()
            self.agent.stop(reason=f"the worker shut down {launch.reason}".rstrip())
            self.agent = None
            # By now the drain has let the jobs end, or it was cut short.
            end_in_time(parent.exitcode or 0)
            announce("Agent stopped!")
            # One more signal must not turn the exit status of a clean end into a killed one.
            platforms.signals.ignore("SIGTERM", "SIGINT", "SIGQUIT")


def _hooks(launch: LaunchWorker, worker: Any) -> Hooks:
    def widen(schedulers: int) -> None:
        """Have Celery take this number of tasks more at once."""
        worker.max_concurrency = launch.most_at_once = max(1, launch.slots) + schedulers
        launch.look_at_lists()
        # The loop asks before each wait whether it may take one more.
        launch.waker.wake()

    return Hooks(
        on_queues=lambda _: launch.look_for_queues(),
        on_intake=lambda _: launch.turn_intake(),
        on_drain=lambda: os.kill(os.getpid(), signal.SIGTERM),
        on_upgrade=lambda: os.kill(os.getpid(), signal.SIGUSR1),
        on_adopt=lambda record: AdoptedRequest(record, worker, launch).end,
        on_end=show_end,
        on_schedulers=widen,
        on_twin=(lambda _: None) if launch.start.is_silent else announce,
    )


class Intake(bootsteps.StartStopStep):  # type: ignore[misc]
    """The launch worker's part in each connection of Celery's consumer."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, parent: Any) -> None:
        launch = worker_of(parent)
        launch.consumer = parent
        # Celery has installed its own handlers by now; these stay while the consumer reconnects.
        for name in ("SIGTERM", "SIGINT"):
            platforms.signals[name] = launch.on_signal
        platforms.signals["SIGQUIT"] = launch.on_quit
        platforms.signals["SIGUSR1"] = launch.on_upgrade
        EVENTS.open(parent)
        # Celery cancels the timer with the connection, and this starts anew with the next one.
        parent.timer.call_repeatedly(_NOTE_LOOP_EVERY_S, LaunchAgent.current().note_loop)
        launch.share_queues()
        launch.turn_intake()
        launch.look_for_queues()
        launch.pass_once()

    def stop(self, parent: Any) -> None:
        EVENTS.close()


app.steps["worker"].add(LaunchSteps)
app.steps["consumer"].add(Intake)
