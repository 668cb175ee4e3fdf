"""What makes a Celery worker a launch worker: the agent's life, the drain on shutdown, revoke as cancel."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import resource
import signal
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NoReturn, TypeVar

import click
from celery import bootsteps, platforms
from celery.bin.worker import worker as worker_command
from celery.concurrency import get_available_pool_names, get_implementation
from celery.exceptions import SecurityWarning
from celery.signals import after_setup_logger, celeryd_after_setup, celeryd_init, worker_init
from celery.worker import state as worker_state
from click.core import ParameterSource

from launch_worker import __version__
from launch_worker.agent.capacity import Inventory
from launch_worker.agent.config import AgentConfig
from launch_worker.agent.gpus import inventory_from_options
from launch_worker.agent.launch_agent import LaunchAgent
from launch_worker.agent.queue_watch import Pickup, pause_s
from launch_worker.agent.run_once import run_once
from launch_worker.agent.selection import Selection, parse_limit, refused, welcome
from launch_worker.api.client import Api
from launch_worker.celery.application import REQUIRED, app, settings, settings_file
from launch_worker.celery.broker import Channel
from launch_worker.celery.consumer import end_in_time
from launch_worker.celery.events import EVENTS, show_end
from launch_worker.celery.request import AdoptedRequest, RunRequest
from launch_worker.cli import output
from launch_worker.errors import BrokerUnavailableError, LaunchError
from launch_worker.model.spec import MAINTENANCE_QUEUE
from launch_worker.model.units import parse_duration
from launch_worker.redis_url import mask_url
from launch_worker.store.redis.safety import check_safe
from launch_worker.untrusted.log_line import OneLine

log = logging.getLogger("launch_worker.worker")

#: Open files of an idle worker, and of each job in the worker or its guard, with some to spare.
_FILES, _FILES_OF_A_JOB = 64, 8
#: A limit that is as good as none is no plan.
_JOBS_COUNTED = 4096

T = TypeVar("T")

_LOOP_TOLD_EVERY_S = 5.0

#: Options of Celery's worker that mean nothing here, by their names there: why, and what there is instead.
REFUSED = {
    "autoscale": "--autoscale: a launch worker has as many slots as --limit (or -c) says, and idle ones cost nothing",
    "max_tasks_per_child": "--max-tasks-per-child: each job is a process of its own, and the worker has no others",
    "max_memory_per_child": "--max-memory-per-child: a run says what it needs (launch-submit --memory)",
    "pool_start_method": "--pool-start-method: a launch worker has threads, which are not forked",
    "time_limit": "--time-limit: a run has a limit of its own (launch-submit --timeout), or its queue's",
    "soft_time_limit": "--soft-time-limit: a run has a limit of its own (launch-submit --timeout, --grace)",
    "optimization": "-O: it orders how a pool of processes is served, and a launch worker has threads",
    "prefetch_multiplier": "--prefetch-multiplier: a launch worker takes a run when a slot is free, and none before",
    "purge": "--purge: it would delete items and no runs, which get others; use launch-worker cancel --queue NAME",
    "include": "-I: a launch worker executes runs, and no tasks of other modules",
}

#: Options that are keys of the agent's configuration under the same name.
_OF_THE_AGENT = (
    *("entity", "max_schedulers", "secure_mode", "verbosity", "stopped_run_timeout", "prefetch_seconds"),
    *("gpus", "cpus", "memory", "drain_timeout", "detach_on_exit", "quarantine_after"),
)


@dataclass(frozen=True)
class Start:
    """What this worker's command line asks for."""

    #: None: the queues of Celery's own configuration.
    selection: Selection | None
    excluded: Collection[str]
    config: AgentConfig
    inventory: Inventory
    run_once: bool
    is_silent: bool

    current: ClassVar[Start]
    #: As many as `limit` says, or Celery's `-c`.
    slots: ClassVar[int] = 1

    @classmethod
    def parse(cls, options: dict[str, Any], *, quiet: bool, has_concurrency: bool = False) -> Start:
        """`has_concurrency`: the command line has Celery's `-c`. Raises InputError."""
        named = options.get("queues") or ()
        queues = [name for name in named if name != MAINTENANCE_QUEUE]
        match, pool, tags = options.get("match") or (), options.get("work_pool"), options.get("tag") or ()
        if pool in get_available_pool_names():
            raise refused(
                f"--pool {pool} would be a pool of queues: Celery's own --pool is -P here, and a launch worker has "
                "threads without it"
            )
        selection = None
        if queues or match or pool or tags:
            selection = Selection.parse(queues=queues, match=match, pool=pool, tags=tags)
        elif named:
            selection = Selection()
        limit = parse_limit(options.get("limit"))
        said = {name: options.get(name) for name in _OF_THE_AGENT} | {"max_jobs": limit, "queues": queues or None}
        said |= {"match": match or None, "pool": pool or None, "tags": tags or None}
        config = AgentConfig.load(said, env=os.environ, file=options.get("agent_config"))
        if has_concurrency and limit is None:
            config = replace(config, max_jobs=None)
        if selection is None and (config.queues or config.match or config.pool or config.tags):
            selection = Selection.parse(
                queues=config.queues or (), match=config.match, pool=config.pool, tags=config.tags
            )
        return cls(
            selection,
            options.get("exclude_queues") or (),
            config,
            inventory_from_options(
                *(config.gpus, config.cpus, config.memory), env=os.environ, share=settings.gpus_share
            ),
            run_once=bool(options.get("run_once")),
            is_silent=quiet or bool(options.get("hide_welcome")),
        )

    @property
    def takes_by_hand(self) -> bool:
        """Whether Celery has no queue of runs to consume."""
        return self.run_once or self.config.max_jobs == 0

    def consumed(self, configured: Iterable[str]) -> list[str]:
        """The queues of runs at the start; those that are looked for come later."""
        names = configured if self.selection is None else self.selection.wanted((), ())
        return [name for name in names if name != MAINTENANCE_QUEUE and name not in self.excluded]


@celeryd_init.connect  # type: ignore[untyped-decorator]
def read_options(instance: Any, options: dict[str, Any], **_: Any) -> None:
    """A sentence for what cannot be, before anything is started."""
    problems = [why for name, why in REFUSED.items() if _is_said(name)]
    if ThreadsPool.refused:
        problems.append(f"-P: a launch worker needs the threads pool, not {ThreadsPool.refused}; start it without -P")
    if _is_said("schedule_filename") and not _is_said("scheduler"):
        problems.append("-s: the schedule of -B is in memory and in Redis; no file is needed (but for a --scheduler)")
    problems += [
        f"{name} must be {value!r} for a launch worker; take {app.conf[name]!r} from the command line"
        for name, value in REQUIRED.items()
        if name.startswith(("worker_", "task_")) and app.conf[name] != value
    ]
    if problems:
        for problem in problems[:-1]:
            output.say(f"launch_worker: {problem}", err=True)
        _give_up(problems[-1])
    try:
        check_safe(settings)
        start = Start.parse(
            options, quiet=bool(getattr(instance, "quiet", False)), has_concurrency=_is_said("concurrency")
        )
        if options.get("strict") and start.selection is not None:
            _check_known(start.selection)
    except LaunchError as error:
        _give_up(str(error), error.exit_code)
    Start.current = start
    Channel.strict_order = start.selection is not None and start.selection.is_strict_order
    if start.selection is not None and start.selection.tags:
        _say(output.styled(start.selection.deprecation(), colour="red"))
    # Celery's banner tells of an app, a transport and a pool, which are always the same here.
    instance.quiet = True
    warnings.filterwarnings("ignore", category=SecurityWarning)
    if not start.is_silent:
        _say(welcome(__version__, mask_url(settings.redis_url)))
        if settings_file:
            _say(f"Celery settings of {settings_file}")
        if os.geteuid() == 0:
            _say("This worker runs as root, and so do its jobs. Give it a user of its own.")


@after_setup_logger.connect  # type: ignore[untyped-decorator]
def keep_lines(logger: logging.Logger, **_: Any) -> None:
    """Of workers and of beat: neither Celery's lines nor ours may be forged by what others wrote."""
    for handler in logger.handlers:
        handler.addFilter(OneLine())


def _is_said(option: str) -> bool:
    """Whether the command line or the environment has it, and not only its default."""
    context = click.get_current_context(silent=True)
    said = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
    return context is not None and context.get_parameter_source(option) in said


def _check_known(selection: Selection) -> None:
    """The end of the start when a queue or pool is not there; waits while Redis is away."""
    store = Api(settings=settings).store
    for failures in itertools.count(1):
        try:
            in_pool = [name for name, _ in store.pool_queues(selection.pool)] if selection.pool else []
            sentence = selection.unknown(store.queue_names(), store.pools(), in_pool)
        except BrokerUnavailableError as error:
            output.say(f"launch_worker: --strict waits to see the queues: {error}", err=True)
            time.sleep(pause_s(failures))
        else:
            store.close()
            break
    if sentence:
        _give_up(sentence)


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
    _give_up(
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
    queues: ClassVar[list[str]] = []

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self.agent: LaunchAgent | None = None
        self.pickup: Pickup | None = None

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
            "inventory": start.inventory,
            "ends_if_hung": True,
            "on_queues": lambda _: look_again(),
            "on_end": show_end,
            "on_intake": turn_intake,
            "on_drain": lambda: os.kill(os.getpid(), signal.SIGTERM),
            "on_upgrade": lambda: os.kill(os.getpid(), signal.SIGUSR1),
            "on_adopt": lambda record: AdoptedRequest(record, parent, wake=Bell.ring).end,
            "on_twin": (lambda _: None) if start.is_silent else _say,
            "on_schedulers": lambda running: _widen(parent, running),
        }
        # Schedulers run beside the slots.
        parent.pool.executor = RingingExecutor(max(1, start.slots) + start.config.max_schedulers)
        self.agent = LaunchAgent(Api(settings=settings), config)
        Bell.hang(parent.hub)
        try:
            self.agent.start()
        except LaunchError as error:
            self.agent = None
            _give_up(str(error))
        if not start.takes_by_hand:
            app.amqp.queues.select_add(self.agent.direct_queue)
        self.pickup = Intake.pickup = Pickup(
            self.agent,
            selection,
            excluded=start.excluded,
            on_change=lambda: turn_intake(LaunchAgent.current().takes_runs),
        )
        if start.slots and not start.run_once:
            self.pickup.start()
        if not start.is_silent:
            _say(selection.describe())

    def close(self, parent: Any) -> None:
        # The first step of a worker's end: what is told of the jobs' ends now still has a connection.
        self._stop(parent)

    def stop(self, parent: Any) -> None:
        self._stop(parent)

    def terminate(self, parent: Any) -> None:
        self._stop(parent)

    def _stop(self, parent: Any) -> None:
        if self.agent is not None:
            if self.pickup is not None:
                self.pickup.stop()
            self.agent.stop(reason=f"the worker shut down {Intake.why}".rstrip())
            self.agent = None
            # By now the drain has let the jobs end, or it was cut short.
            end_in_time(parent.exitcode or 0)
            _say("Agent stopped!")
            # All is done: one more signal must not turn the exit status of a clean end into a killed one.
            platforms.signals.ignore("SIGTERM", "SIGINT", "SIGQUIT")


def _widen(worker: Any, schedulers: int) -> None:
    """Have Celery take so many tasks more at once; from any thread."""
    worker.max_concurrency = max(1, Start.slots) + schedulers
    # Its loop asks before each wait whether it may take one.
    Bell.ring()


def _say(sentence: str) -> None:
    # Whoever read it may be gone.
    with contextlib.suppress(OSError):
        output.say(sentence)


def _give_up(sentence: str, code: int = 1) -> NoReturn:
    output.say(f"launch_worker: {sentence}", err=True)
    raise SystemExit(code)


class Bell:
    """Wakes Celery's loop from another thread: without an event on a socket it looks only every now and then."""

    _fd: ClassVar[int | None] = None

    @classmethod
    def hang(cls, hub: Any) -> None:
        reading, cls._fd = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(cls._fd, False)
        hub.add_reader(reading, lambda: os.read(reading, 4096))

    @classmethod
    def ring(cls) -> None:
        if cls._fd is not None:
            # A full pipe wakes as well.
            with contextlib.suppress(BlockingIOError):
                os.write(cls._fd, b"\0")


class RingingExecutor(ThreadPoolExecutor):
    """The threads of Celery's pool. Once a task is over its slot is free, and only the bell tells the loop."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        def do() -> T:
            try:
                return fn(*args, **kwargs)
            finally:
                Bell.ring()

        return super().submit(do)


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
    pickup: ClassVar[Pickup | None] = None
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
        assert Intake.pickup is not None
        run_once(
            LaunchAgent.current(),
            look=Intake.pickup.look,
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
    if Intake.pickup is not None:
        Intake.pickup.wake()


def _add_option(*words: str, **attributes: Any) -> None:
    app.user_options["worker"].add(click.Option(list(words), **attributes))


def _free_word(word: str) -> None:
    """Celery's `--pool` names an implementation, of which a launch worker has one only; `-P` still does."""
    for option in worker_command.params:
        if word in option.opts and len(option.opts) > 1:
            option.opts.remove(word)


class ThreadsPool(click.ParamType):  # type: ignore[type-arg]
    """Of Celery's `-P`: the one that there is."""

    name = "pool"
    #: Another one that was asked for.
    refused: ClassVar[str] = ""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, type):
            return value
        if value != "threads":
            ThreadsPool.refused = str(value)
        return get_implementation("threads")


for _option in worker_command.params:
    if _option.name == "pool":
        _option.type, _option.default = ThreadsPool(), "threads"
_free_word("--pool")
_add_option(
    "--match",
    "-m",
    multiple=True,
    metavar="PREFIX",
    help="Consume all queues whose names begin so, those made later too.",
)
_add_option(
    "work_pool",
    "--pool",
    "-p",
    metavar="NAME",
    help="Consume all queues of this pool, by their rank in it; with -Q only those of them.",
)
_add_option("--tag", "-t", multiple=True, metavar="TAG", help="DEPRECATED: a queue that is named for the tags.")
_add_option("--limit", metavar="N", help="Runs at once, as -c; but 0 takes nothing, and -1 has no limit.")
_add_option("--run-once", is_flag=True, help="Take what is due now, wait for its end, and exit.")
_add_option(
    "--prefetch-seconds", metavar="N", help="Claim and prepare scheduled runs so long before they start (default: 0)."
)
_add_option("--hide-welcome", is_flag=True, help="Say nothing at the start.")
_add_option("--gpus", metavar="auto|N|0,1,3|none", help="The GPUs that runs may have (default: auto).")
_add_option("--cpus", metavar="X", help="The cores that runs may have (default: all).")
_add_option("--memory", metavar="SIZE", help="The memory that runs may have (default: all).")
_add_option("--strict", is_flag=True, help="Refuse to start for queues or pools that are not there.")
_add_option(
    "--drain-timeout",
    metavar="DUR",
    callback=check_drain_timeout,
    help="How long jobs may go on after SIGTERM (default: no limit); then they are handed back or Killed.",
)
_add_option(
    "--detach-on-exit",
    is_flag=True,
    default=None,
    help="On SIGTERM leave running jobs to the next worker with this node name, which must start within the lease.",
)
_add_option(
    "--quarantine-after",
    type=click.IntRange(min=0),
    help="Take no runs for a while after so many starts in a row failed through the machine; 0 for never (default: 1).",
)
_add_option(
    "--agent-config", metavar="FILE", help="A YAML file with the agent's configuration (default: LAUNCH_AGENT_CONFIG)."
)
_add_option(
    "--max-schedulers", metavar="N", help="Runs at once that make other runs, beside the others (default: 1; -1: any)."
)
_add_option(
    "--secure-mode/--no-secure-mode",
    default=None,
    help="Refuse runs that choose an entry point or reach this machine (default: no).",
)
_add_option("--stopped-run-timeout", metavar="DUR", help="The longest grace of a stopped run (default: the run's own).")
_add_option("--entity", metavar="NAME", help="Whose worker this is, for people.")
_add_option("--verbosity", metavar="0|1|2", help="Print the status when it changes (1), internal messages too (2).")
app.steps["worker"].add(LaunchSteps)
app.steps["consumer"].add(Intake)
