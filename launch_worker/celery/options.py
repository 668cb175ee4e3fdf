"""Adds the worker's options to Celery's command line, and reads them."""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from typing import Any, NoReturn

import click
from celery.bin.worker import worker as worker_command
from celery.concurrency import get_implementation
from celery.exceptions import SecurityWarning
from celery.signals import celeryd_init
from click.core import ParameterSource

from launch_worker import __version__, terminal
from launch_worker.agent.config import OPTIONS, Option
from launch_worker.agent.outage import backoff_s
from launch_worker.agent.queue_watch import LOOK_S
from launch_worker.agent.selection import Selection, welcome
from launch_worker.api.client import Api
from launch_worker.celery.application import REQUIRED, app, settings, settings_file
from launch_worker.celery.start import Start, parameter_of
from launch_worker.celery.worker import LaunchWorker
from launch_worker.errors import BrokerUnavailableError, LaunchError
from launch_worker.redis_url import mask_url
from launch_worker.store.redis.safety import check_safe
from launch_worker.store.store import Store

#: Why an option of Celery's worker means nothing here, and what there is instead, by its name there.
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

#: Key of click's context for a pool other than threads that was asked for.
_OTHER_POOL = "launch_worker.other_pool"


@celeryd_init.connect  # type: ignore[untyped-decorator]
def read_options(instance: Any, options: dict[str, Any], **_: Any) -> None:
    """Check the options before anything is started; ends with a sentence for what cannot be."""
    problems = [why for name, why in REFUSED.items() if is_said(name)]
    context = click.get_current_context(silent=True)
    if context is not None and _OTHER_POOL in context.meta:
        other = context.meta[_OTHER_POOL]
        problems.append(f"-P: a launch worker needs the threads pool, not {other}; start it without -P")
    if is_said("schedule_filename") and not is_said("scheduler"):
        problems.append("-s: the schedule of -B is in memory and in Redis; no file is needed (but for a --scheduler)")
    problems += [
        f"{name} must be {value!r} for a launch worker; take {app.conf[name]!r} from the command line"
        for name, value in REQUIRED.items()
        if name.startswith(("worker_", "task_")) and app.conf[name] != value
    ]
    if problems:
        for problem in problems[:-1]:
            terminal.say(f"launch-worker: {problem}", err=True)
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
    instance.launch_worker = LaunchWorker(start)
    app.conf.broker_transport_options = app.conf.broker_transport_options | {"strict_order": start.is_strict_order}
    # Without Celery's banner: it names an app, a transport and a pool, which are always the same here.
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


def _add_option(option: Option) -> None:
    words = [word for word in option.declaration if word not in _CELERYS_WORDS]
    app.user_options["worker"].add(click.Option([parameter_of(option), *words], **option.attributes))


def _free_word(word: str) -> None:
    """Take a word from Celery's options: its `--pool` is ours, and `-P` still names Celery's implementation."""
    for option in worker_command.params:
        if word in option.opts and len(option.opts) > 1:
            option.opts.remove(word)


class ThreadsPool(click.ParamType):  # type: ignore[type-arg]
    """The type of Celery's `-P`: the threads pool, whatever is asked for; `read_options` refuses another one."""

    name = "pool"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, type):
            return value
        if value != "threads":
            click.get_current_context().meta[_OTHER_POOL] = str(value)
        return get_implementation("threads")


def is_said(option: str) -> bool:
    """Whether the command line or the environment has the option, and not only its default."""
    context = click.get_current_context(silent=True)
    said = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
    return context is not None and context.get_parameter_source(option) in said


def _check_known(selection: Selection) -> None:
    """End the start when a queue or pool is not there; waits while Redis is away."""
    store, failures = Api(settings=settings).store, 0
    while (sentence := _unknown(selection, store)) is None:
        # Not by `Outage.repeat`: the heartbeat that looks for Redis, and the log, come later.
        failures += 1
        time.sleep(backoff_s(failures, first_s=LOOK_S, cap_s=60.0))
    store.close()
    if sentence:
        give_up(sentence)


def _unknown(selection: Selection, store: Store) -> str | None:
    """One sentence about queues or a pool that are not there; '' for none, None while Redis is away, which it says."""
    try:
        in_pool = [name for name, _ in store.pool_queues(selection.pool)] if selection.pool else []
        return selection.unknown(store.queue_names(), store.pools(), in_pool)
    except BrokerUnavailableError as error:
        terminal.say(f"launch-worker: --strict waits to see the queues: {error}", err=True)
        return None


def announce(sentence: str) -> None:
    # The reader of the terminal may be gone.
    with contextlib.suppress(OSError):
        terminal.say(sentence)


def give_up(sentence: str, code: int = 1) -> NoReturn:
    terminal.say(f"launch-worker: {sentence}", err=True)
    raise SystemExit(code)


for _option in worker_command.params:
    if _option.name == "pool":
        _option.type, _option.default = ThreadsPool(), "threads"
_free_word("--pool")
for _row in OPTIONS:
    if _row.name != "queues":
        _add_option(_row)
