"""The worker's options on Celery's command line."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
import warnings
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NoReturn

import click
from celery.bin.worker import worker as worker_command
from celery.concurrency import get_available_pool_names, get_implementation
from celery.exceptions import SecurityWarning
from celery.signals import celeryd_init
from click.core import ParameterSource

from launch_worker import __version__, terminal
from launch_worker.agent.capacity import Capacity
from launch_worker.agent.config import AgentConfig
from launch_worker.agent.gpus import inventory_from_options
from launch_worker.agent.queue_watch import pause_s
from launch_worker.agent.selection import Selection, parse_limit, refused, welcome
from launch_worker.api.client import Api
from launch_worker.celery.application import REQUIRED, app, settings, settings_file
from launch_worker.celery.broker import Channel
from launch_worker.errors import BrokerUnavailableError, LaunchError
from launch_worker.model.checks import MAINTENANCE_QUEUE
from launch_worker.model.units import parse_duration
from launch_worker.redis_url import mask_url
from launch_worker.store.redis.safety import check_safe

#: Options that are keys of the agent's configuration under the same name.
_OF_THE_AGENT = (
    *("entity", "max_schedulers", "secure_mode", "verbosity", "stopped_run_timeout", "prefetch_seconds"),
    *("gpus", "cpus", "memory", "drain_timeout", "detach_on_exit", "quarantine_after"),
)


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


@dataclass(frozen=True)
class Start:
    """What this worker's command line asks for."""

    #: None: the queues of Celery's own configuration.
    selection: Selection | None
    excluded: Collection[str]
    config: AgentConfig
    inventory: Capacity
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
    problems = [why for name, why in REFUSED.items() if is_said(name)]
    if ThreadsPool.refused:
        problems.append(f"-P: a launch worker needs the threads pool, not {ThreadsPool.refused}; start it without -P")
    if is_said("schedule_filename") and not is_said("scheduler"):
        problems.append("-s: the schedule of -B is in memory and in Redis; no file is needed (but for a --scheduler)")
    problems += [
        f"{name} must be {value!r} for a launch worker; take {app.conf[name]!r} from the command line"
        for name, value in REQUIRED.items()
        if name.startswith(("worker_", "task_")) and app.conf[name] != value
    ]
    if problems:
        for problem in problems[:-1]:
            terminal.say(f"launch_worker: {problem}", err=True)
        give_up(problems[-1])
    try:
        check_safe(settings)
        start = Start.parse(
            options, quiet=bool(getattr(instance, "quiet", False)), has_concurrency=is_said("concurrency")
        )
        if options.get("strict") and start.selection is not None:
            _check_known(start.selection)
    except LaunchError as error:
        give_up(str(error), error.exit_code)
    Start.current = start
    Channel.strict_order = start.selection is not None and start.selection.is_strict_order
    if start.selection is not None and start.selection.tags:
        announce(terminal.styled(start.selection.deprecation(), colour="red"))
    # Celery's banner tells of an app, a transport and a pool, which are always the same here.
    instance.quiet = True
    warnings.filterwarnings("ignore", category=SecurityWarning)
    if not start.is_silent:
        announce(welcome(__version__, mask_url(settings.redis_url)))
        if settings_file:
            announce(f"Celery settings of {settings_file}")
        if os.geteuid() == 0:
            announce("This worker runs as root, and so do its jobs. Give it a user of its own.")


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


def is_said(option: str) -> bool:
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
            terminal.say(f"launch_worker: --strict waits to see the queues: {error}", err=True)
            time.sleep(pause_s(failures))
        else:
            store.close()
            break
    if sentence:
        give_up(sentence)


def announce(sentence: str) -> None:
    # Whoever read it may be gone.
    with contextlib.suppress(OSError):
        terminal.say(sentence)


def give_up(sentence: str, code: int = 1) -> NoReturn:
    terminal.say(f"launch_worker: {sentence}", err=True)
    raise SystemExit(code)


def check_drain_timeout(ctx: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """A usage error instead of a traceback from deep in the worker's start."""
    try:
        if value is not None:
            parse_duration(value, what="--drain-timeout")
    except LaunchError as error:
        raise click.BadParameter(str(error)) from None
    return value


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
