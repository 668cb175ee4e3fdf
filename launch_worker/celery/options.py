"""Adds the worker's options to Celery's command line, and reads them."""

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
from launch_worker.agent.config import OPTIONS, AgentConfig, Option, keys_of
from launch_worker.agent.gpus import capacity_from_options
from launch_worker.agent.outage import backoff_s
from launch_worker.agent.queue_watch import LOOK_S
from launch_worker.agent.selection import Selection, parse_limit, refused, welcome
from launch_worker.api.client import Api
from launch_worker.celery.application import REQUIRED, app, settings, settings_file
from launch_worker.celery.broker import Channel
from launch_worker.errors import BrokerUnavailableError, LaunchError
from launch_worker.model.checks import MAINTENANCE_QUEUE
from launch_worker.redis_url import mask_url
from launch_worker.store.redis.safety import check_safe

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
    capacity: Capacity
    run_once: bool
    is_silent: bool

    current: ClassVar[Start]
    #: As many as `limit` says, or Celery's `-c`.
    slots: ClassVar[int] = 1

    @classmethod
    def parse(cls, options: dict[str, Any], *, quiet: bool, has_concurrency: bool = False) -> Start:
        """`has_concurrency`: the command line has Celery's `-c`. Raises InputError."""
        said = {option.name: options.get(_parameter(option)) or None for option in OPTIONS if option.is_repeated}
        said |= {option.name: options.get(_parameter(option)) for option in OPTIONS if not option.is_repeated}
        named, pool, said["max_jobs"] = said["queues"] or (), said["pool"] or None, parse_limit(said["max_jobs"])
        said["queues"] = queues = [name for name in named if name != MAINTENANCE_QUEUE] or None
        if pool in get_available_pool_names():
            raise refused(
                f"--pool {pool} would be a pool of queues: Celery's own --pool is -P here, and a launch worker has "
                "threads without it"
            )
        selection = None
        if queues or said["match"] or pool or said["tags"]:
            selection = Selection.parse(
                queues=queues or (), match=said["match"] or (), pool=pool, tags=said["tags"] or ()
            )
        elif named:
            selection = Selection()
        config = AgentConfig.load(keys_of(said), env=os.environ, file=said["agent_config"])
        if has_concurrency and said["max_jobs"] is None:
            config = replace(config, max_jobs=None)
        if selection is None and (config.queues or config.match or config.pool or config.tags):
            selection = Selection.parse(
                queues=config.queues or (), match=config.match, pool=config.pool, tags=config.tags
            )
        return cls(
            selection,
            options.get("exclude_queues") or (),
            config,
            capacity_from_options(
                *(config.gpus, config.cpus, config.memory), env=os.environ, share=settings.gpus_share
            ),
            run_once=bool(said["run_once"]),
            is_silent=quiet or bool(said["hide_welcome"]),
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


#: Words that Celery's worker has itself: `-Q` for queues, and `-l` for its log level.
_CELERYS_WORDS = ("-l",)


def _parameter(option: Option) -> str:
    """The name among the options of Celery's worker, which has `pool` for something else, and `queues` itself."""
    own = {"pool": "work_pool", "queues": "queues"}
    return own.get(option.name) or option.word.removeprefix("--").replace("-", "_")


def _add_option(option: Option) -> None:
    words = [word for word in option.declaration if word not in _CELERYS_WORDS]
    app.user_options["worker"].add(click.Option([_parameter(option), *words], **option.attributes))


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
            time.sleep(backoff_s(failures, first_s=LOOK_S, cap_s=60.0))
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


for _option in worker_command.params:
    if _option.name == "pool":
        _option.type, _option.default = ThreadsPool(), "threads"
_free_word("--pool")
for _row in OPTIONS:
    if _row.name != "queues":
        _add_option(_row)
