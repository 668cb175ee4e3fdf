"""The commands and options that queues and pools have alike: create, set, pause, resume, delete."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import click

from launch_worker import terminal
from launch_worker.api.client import Api
from launch_worker.cli.submit_options import with_options
from launch_worker.errors import InputError
from launch_worker.model.checks import MAX_LIMIT
from launch_worker.queues.defaults import parse_defaults
from launch_worker.queues.described import Pool, Queue

NAME = click.argument("name")
JSON = click.option("--json", "as_json", is_flag=True, help="JSON for machines.")


def or_none(least: int, most: int) -> Callable[[click.Context, click.Parameter, str | None], int | str | None]:
    """A callback of an option that is a number, or `none` to take it away."""

    def read(ctx: click.Context, option: click.Parameter, text: str | None) -> int | str | None:
        if text is None or text.strip().lower() == "none":
            return text and "none"
        if not re.fullmatch(r"[0-9]{1,9}", text.strip()) or not least <= int(text) <= most:
            raise click.BadParameter(
                f"{text!r} is neither a whole number from {least} to {most:,} nor none", ctx, option
            )
        return int(text)

    return read


LIMIT = click.option(
    "--limit",
    callback=or_none(0, MAX_LIMIT),
    metavar="N",
    help="Most runs at once, 0 for nothing; none takes the limit away.",
)
DEFAULT = click.option(
    "--default",
    "defaults",
    multiple=True,
    metavar="OPTION=VALUE",
    help="For runs that do not say it, as launch-submit has it (timeout=2h); no value takes it away; may be repeated.",
)
ADMIT = click.option(
    "--admit",
    "admits",
    multiple=True,
    metavar="GROUP=PRIORITY",
    help="Through a server only these user groups may submit, up to that priority; * is everybody; no value takes one "
    "away; may be repeated.",
)
DESCRIPTION = click.option("--description", help="For people; '' takes it away.")


class Kind(NamedTuple):
    """Queues, or pools."""

    #: The kind's word, queue or pool; methods of `Api` are named for it.
    name: str
    #: Options of `create` and `set`.
    options: tuple[Callable[[Any], Any], ...]
    #: Reader of those options as they were typed, which makes settings of them.
    settings: Callable[[dict[str, Any]], dict[str, Any]]
    #: The help of each command, and the rest of its example behind its name.
    commands: Mapping[str, tuple[str, str]]


def add_commands(group: click.Group, kind: Kind) -> None:
    """Add the commands that change one of a kind."""

    def command(word: str, *options: Callable[[Any], Any]) -> Callable[[Callable[..., None]], click.Command]:
        help_text, example = kind.commands[word]

        def add(function: Callable[..., None]) -> click.Command:
            function = with_options(NAME, *options, JSON)(click.pass_obj(function))
            epilog = f"Example: launch-worker {kind.name}s {word} {example}"
            return group.command(word, help=help_text, epilog=epilog)(function)

        return add

    @command("create", *kind.options)
    def create_command(url: str | None, /, name: str, as_json: bool, **options: Any) -> None:
        made = getattr(Api(url), f"create_{kind.name}")(name, **kind.settings(options))
        _say(made, f"{kind.name} {name} is made", as_json=as_json)

    @command("set", *kind.options)
    def set_command(url: str | None, /, name: str, as_json: bool, **options: Any) -> None:
        settings = kind.settings(options)
        if not settings:
            raise InputError(f"nothing to change was given; see: launch-worker {kind.name}s set --help")
        changed = getattr(Api(url), f"set_{kind.name}")(name, **settings)
        _say(changed, f"{kind.name} {name} is configured", as_json=as_json)

    @command("pause")
    def pause_command(url: str | None, name: str, as_json: bool) -> None:
        api = Api(url)
        getattr(api, f"pause_{kind.name}")(name)
        _say(getattr(api, kind.name)(name), f"{kind.name} {name} is paused", as_json=as_json)

    @command("resume")
    def resume_command(url: str | None, name: str, as_json: bool) -> None:
        api = Api(url)
        getattr(api, f"resume_{kind.name}")(name)
        _say(getattr(api, kind.name)(name), f"{kind.name} {name} goes on", as_json=as_json)

    @command("delete")
    def delete_command(url: str | None, name: str, as_json: bool) -> None:
        getattr(Api(url), f"delete_{kind.name}")(name)
        if as_json:
            terminal.echo_json({"name": name, "deleted": True})
        else:
            terminal.say(f"{kind.name} {name} is deleted")


def _say(changed: Queue | Pool, sentence: str, *, as_json: bool) -> None:
    if as_json:
        terminal.echo_json(changed.as_json())
    else:
        terminal.say(sentence)


def setting(key: str, value: Any) -> None:
    """Print one setting of what `show` prints; on a terminal none that is empty."""
    screen = terminal.Screen.of()
    if isinstance(value, bool):
        text = "yes" if value else "no"
    else:
        text = "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if text or not screen.is_terminal:
        terminal.put(terminal.wrapped(text, screen, terminal.styled(f"{key:<20} ", dim=True)))


def show_settings(key: str, settings: dict[str, Any]) -> None:
    """Print one line each, as it would be typed."""
    for name, value in settings.items():
        setting(key, f"{name}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")


def common_settings(options: dict[str, Any]) -> dict[str, Any]:
    """The settings that queues and pools share, as they were typed; what was not given is left out."""
    settings: dict[str, Any] = {}
    for name in ("limit", "rank"):
        if options.get(name) is not None:
            settings[name] = None if options[name] == "none" else options[name]
    if options["description"] is not None:
        settings["description"] = options["description"]
    if options["admits"]:
        settings["admits"] = {group: word or None for group, word in pairs("--admit", options["admits"]).items()}
    if options["defaults"]:
        settings["defaults"] = parse_defaults(pairs("--default", options["defaults"]))
    return settings


def pairs(option: str, words: tuple[str, ...]) -> dict[str, str]:
    """`NAME=VALUE` words as a map. Raises InputError for one without `=`."""
    parsed = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise InputError(
                f"{option} {word[:60]!r} has no value; write {option} NAME=VALUE, or NAME= to take it away"
            )
        parsed[name] = value
    return parsed
