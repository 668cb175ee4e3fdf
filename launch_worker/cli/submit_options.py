"""The options of `launch-submit`, made of the table of a run's options, and those that are its own.

None, or nothing, is "not given": then the queue's defaults apply, then RunSpec's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from launch_worker.cli.helping import GroupedOption
from launch_worker.model import readers
from launch_worker.model.checks import Whole
from launch_worker.model.options import (
    CODE,
    CONTAINERS,
    LABELS,
    LIMITS,
    MANY,
    NEEDS,
    ONCE,
    SECRETS,
    TIMES,
    TOLD,
    Option,
)
from launch_worker.submission.array import parse_env, parse_values

#: Groups of `launch-submit --help` in their order, with the names of their options.
_GROUPS = {
    "Where, and as what": "queue name project tags priority array max_fails from_file strict",
    "What the job gets": "env env_from secrets values config inputs outputs",
    "Its code": "cwd uri upload requirements python",
    "Its container": "image entrypoint pull mount tmpfs network user read_only pids_limit shm_size no_init",
    "Resources": "gpus memory cpus",
    "Limits": "timeout on_timeout signal start_timeout stall_timeout grace stop_signal stop_scope expires "
    "concurrency_key limit_key",
    "Retries": "retries retry_delay retry_on retry not_on_same_worker "
    "max_preemptions preempt_exit_code checkpoint_every",
    "When": "at delay after cron cron_name timezone missed overlap",
    "Once only": "unique id",
    "Output": "wait follow notify dry_run json quiet api",
}
GROUP_OF = {name: group for group, names in _GROUPS.items() for name in names.split()}


def grouped(*spellings: str, name: str = "", **more: Any) -> Callable[[Any], Any]:
    """An option in its group of `--help`, which shows it as `--name NAME` unless it says another word."""
    name = name or spellings[-1].removeprefix("--").replace("-", "_")
    if not more.get("is_flag"):
        more["metavar"] = more.get("metavar") or spellings[-1].removeprefix("--").replace("-", "_").upper()
    if more.get("multiple"):
        more["metavar"] += "…"
    return click.option(*spellings, more.pop("dest", name), cls=GroupedOption, group=GROUP_OF[name], **more)


def _as_click(option: Option) -> Callable[[Any], Any]:
    """A row of the table as an option of a command."""
    kind: Any = None
    if option.choices:
        kind = click.Choice(option.choices)
    elif isinstance(option.check, Whole):
        kind = click.IntRange(option.check.least, option.check.most)
    elif option.reader is readers.whole:
        kind = int
    elif option.reader is readers.number:
        kind = float
    return grouped(
        *option.spellings,
        name=option.name,
        type=kind,
        is_flag=option.reader in (readers.truth, readers.negation) or None,
        multiple=option.is_repeated,
        metavar=option.unit or None,
        help=_with_values(option.help, option.choices, option.usual),
    )


def _with_values(text: str, choices: Sequence[str], usual: str) -> str:
    """The text with the values that there are, the usual one in brackets."""
    if choices:
        text = f"{text.rstrip('.')}: {' '.join(f'({one})' if one == usual else one for one in choices)}."
    elif usual:
        text = f"{text[:-1]} (default: {usual})."
    return text


_FROM_FILE = grouped("--from-file", metavar="FILE", help="Runs from a file of JSON lines, - standard input.")
#: Options of a recurring submission beside its `--cron`.
RECURRENCE = (
    grouped("--timezone", metavar="ZONE", help="The zone of --cron (default: this machine's)."),
    grouped(
        "--missed",
        type=click.Choice(["skip", "once"]),
        metavar="WHICH",
        help=_with_values("Times that passed without beat", ("skip", "once"), "skip"),
    ),
    grouped(
        "--overlap",
        type=click.Choice(["allow", "skip", "queue-one"]),
        metavar="HOW",
        help=_with_values("Times before the last run's end", ("allow", "skip", "queue-one"), "allow"),
    ),
)
STRICT = grouped("--strict", is_flag=True, help="Refuse a queue that is not known yet.")
_CRON = (
    grouped("--cron", metavar="CRON", help="Again and again, as @daily or '30 2 * * 1-5'."),
    grouped("--cron-name", metavar="NAME", help="The schedule's name (default: the run's)."),
    *RECURRENCE,
)

_RUN = (*LABELS, *CODE, *CONTAINERS, *NEEDS, *LIMITS, *TOLD)
#: Options of a run that every command with runs has, in the order of --help.
RUN_OPTIONS = tuple(map(_as_click, _RUN))
#: Options of `launch-submit` beside its own.
SUBMIT_OPTIONS = (*map(_as_click, (*_RUN, *SECRETS, *TIMES, *MANY, *ONCE)), _FROM_FILE, STRICT, *_CRON)
#: Options of `launch-worker schedules create` beside its own.
SCHEDULE_OPTIONS = tuple(_as_click(option) for option in (*_RUN, *TIMES) if option.is_recurring)

Command = TypeVar("Command", bound=Callable[..., Any])


def with_options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """A decorator that adds all of these options, in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def given_options(command: tuple[str, ...], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the user really gave, as `read_options` takes them."""
    # By identity: 0 and '' are given.
    given = {name: value for name, value in options.items() if value is not None and value is not False and value != ()}
    if command:
        given["command"] = command
    if "secrets" in given:
        # Imported on demand: start-up time of `launch-submit`.
        from launch_worker.trust.secrets import read_secrets

        given["secrets"] = read_secrets(given["secrets"])
    for option in _RUN:
        if option.name in given and option.reader is readers.env:
            given[option.name] = parse_env(given[option.name])
        elif option.name in given and option.reader is readers.mapping:
            given[option.name] = parse_values(given[option.name], option=option.spellings[-1])
    return given
