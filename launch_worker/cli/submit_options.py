"""The options of `launch-submit`, made of the table of a run's options, and those that are its own.

None, or nothing, is "not given": then the queue's defaults apply, then RunSpec's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from launch_worker.model import readers
from launch_worker.model.checks import Whole
from launch_worker.model.options import CODE, CONTAINERS, LABELS, LIMITS, MANY, NEEDS, ONCE, TIMES, Option
from launch_worker.submission.array import parse_env, parse_values


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
    return click.option(
        *option.spellings,
        option.name,
        type=kind,
        is_flag=option.reader in (readers.truth, readers.negation) or None,
        multiple=option.is_repeated,
        metavar=option.unit or None,
        show_default=option.usual or None,
        help=option.explanation,
    )


_FROM_FILE = click.option(
    "--from-file",
    metavar="FILE",
    help="Runs from a file, a JSON object a line with keys as these options; - is standard input.",
)
#: Options of a recurring submission beside its `--cron`.
RECURRENCE = (
    click.option("--timezone", metavar="ZONE", help="The zone of --cron, as Europe/Berlin (default: this machine's)."),
    click.option(
        "--missed",
        type=click.Choice(["skip", "once"]),
        show_default="skip",
        help="Runs for times that passed with no beat there: none, or one for all.",
    ),
    click.option(
        "--overlap",
        type=click.Choice(["allow", "skip", "queue-one"]),
        show_default="allow",
        help="Times that come before the last run has ended: run beside it, leave them out, or run one after it.",
    ),
)
STRICT = click.option("--strict", is_flag=True, help="Refuse a queue that is not known yet.")
_CRON = (
    click.option("--cron", metavar="CRON", help="Again and again: 'MINUTE HOUR DAY MONTH WEEKDAY', or @daily."),
    click.option("--cron-name", metavar="NAME", help="The schedule's name (default: the run's)."),
    *RECURRENCE,
)

_RUN = (*LABELS, *CODE, *CONTAINERS, *NEEDS, *LIMITS)
#: Options of a run that every command with runs has, in the order of --help.
RUN_OPTIONS = tuple(map(_as_click, _RUN))
#: Options of `launch-submit` beside its own.
SUBMIT_OPTIONS = (*map(_as_click, (*_RUN, *TIMES, *MANY)), _FROM_FILE, STRICT, *map(_as_click, ONCE), *_CRON)
#: Options of `launch-worker schedules create` beside its own.
SCHEDULE_OPTIONS = (*RUN_OPTIONS, *(_as_click(option) for option in TIMES if option.is_recurring))

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
    for option in _RUN:
        if option.name in given and option.reader is readers.env:
            given[option.name] = parse_env(given[option.name])
        elif option.name in given and option.reader is readers.mapping:
            given[option.name] = parse_values(given[option.name], option=option.spellings[-1])
    return given
