"""`queues`: which queues there are, and what an admin configures of one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from launch_worker import terminal
from launch_worker.api.client import Api
from launch_worker.api.queues import MAX_RANK, Queue
from launch_worker.cli.submit_options import with_options
from launch_worker.errors import InputError
from launch_worker.model.checks import MAX_LIMIT
from launch_worker.queues.defaults import as_options, parse_defaults
from launch_worker.queues.queue import RESOURCES, parse_settings
from launch_worker.untrusted.text import read_json

_NAME = click.argument("name")
_JSON = click.option("--json", "as_json", is_flag=True, help="JSON for machines.")
_MAX_FILE_BYTES = 1 << 20


def _or_none(least: int, most: int) -> Callable[[click.Context, click.Parameter, str | None], int | str | None]:
    """An option that is a number, or `none` to take it away."""

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
    callback=_or_none(0, MAX_LIMIT),
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
DESCRIPTION = click.option("--description", help="For people; '' takes it away.")
_SETTINGS = (
    LIMIT,
    click.option("--pool", metavar="POOL", help="Put it into this pool; '' takes it out."),
    click.option(
        "--rank",
        callback=_or_none(1, MAX_RANK),
        metavar="N",
        help="Its place in the pool, 1 the first; none puts it behind those that have one.",
    ),
    click.option(
        "--resource",
        type=click.Choice([*RESOURCES, ""]),
        metavar="|".join(RESOURCES),
        help="What runs its jobs; '' leaves it to each run.",
    ),
    click.option(
        "--container",
        multiple=True,
        metavar="SETTING=VALUE",
        help="A setting of its containers, VALUE as JSON or text, nothing to take it away; may be repeated.",
    ),
    DEFAULT,
    click.option(
        "--variables", metavar="FILE|JSON", help="JSON Schema of the values that runs give (--set); '' takes it away."
    ),
    click.option(
        "--macro-env",
        multiple=True,
        metavar="NAME",
        help="A variable of the worker's that macros may use; may be repeated, '' takes all away.",
    ),
    click.option("--priorities/--no-priorities", default=None, help="Whether its runs may have priorities."),
    DESCRIPTION,
)


@click.group(invoke_without_command=True, epilog="Example: launch-worker queues set gpu --limit 4")
@_JSON
@click.pass_context
def queues_command(ctx: click.Context, as_json: bool) -> None:
    """List the queues, configure, pause and delete them. A queue needs none of this: its first run makes it."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_command, as_json=as_json)


@queues_command.command("list", epilog="Example: launch-worker queues list --json")
@_JSON
@click.pass_obj
def list_command(url: str | None, as_json: bool) -> None:
    """List the queues."""
    queues = Api(url).queues()
    if as_json:
        for queue in queues:
            terminal.echo_json(queue.as_json())
        return
    if not queues:
        terminal.say("no queues", err=True)
        return
    rows = [
        (
            queue.name,
            queue.waiting,
            queue.later,
            queue.running,
            "" if queue.limit is None else queue.limit,
            "paused" if queue.paused else "",
            queue.pool,
            queue.workers,
            queue.settings.get("resource", ""),
            queue.problem or queue.settings.get("description", ""),
        )
        for queue in queues
    ]
    terminal.table(
        ("QUEUE", "WAITING", "LATER", "RUNNING", "LIMIT", "PAUSED", "POOL", "WORKERS", "RESOURCE", "DESCRIPTION"), rows
    )


@queues_command.command("show", epilog="Example: launch-worker queues show gpu --json")
@_NAME
@_JSON
@click.pass_obj
def show_command(url: str | None, name: str, as_json: bool) -> None:
    """Show a queue and its settings."""
    _show(Api(url).queue(name), as_json=as_json)


@queues_command.command(
    "create", epilog="Example: launch-worker queues create sim --resource container --container image=sim:3 --limit 8"
)
@_NAME
@with_options(*_SETTINGS)
@_JSON
@click.pass_obj
def create_command(url: str | None, /, name: str, as_json: bool, **options: Any) -> None:
    """Make a queue; refused where it is there already."""
    queue = Api(url).create_queue(name, **_settings(**options))
    _said(queue, f"queue {name} is made", as_json=as_json)


@queues_command.command("set", epilog="Example: launch-worker queues set gpu --limit 4 --default timeout=2h")
@_NAME
@with_options(*_SETTINGS)
@_JSON
@click.pass_obj
def set_command(url: str | None, /, name: str, as_json: bool, **options: Any) -> None:
    """Change some of a queue's settings. Runs that were submitted keep the defaults that they got."""
    settings = _settings(**options)
    if not settings:
        raise InputError("nothing to change was given; see: launch-worker queues set --help")
    queue = Api(url).set_queue(name, **settings)
    _said(queue, f"queue {name} is configured", as_json=as_json)


@queues_command.command("pause", epilog="Example: launch-worker queues pause gpu")
@_NAME
@_JSON
@click.pass_obj
def pause_command(url: str | None, name: str, as_json: bool) -> None:
    """Let nothing of a queue start any more. What runs goes on."""
    api = Api(url)
    api.pause_queue(name)
    _said(api.queue(name), f"queue {name} is paused", as_json=as_json)


@queues_command.command("resume", epilog="Example: launch-worker queues resume gpu")
@_NAME
@_JSON
@click.pass_obj
def resume_command(url: str | None, name: str, as_json: bool) -> None:
    """Let a paused queue go on."""
    api = Api(url)
    api.resume_queue(name)
    _said(api.queue(name), f"queue {name} goes on", as_json=as_json)


@queues_command.command("delete", epilog="Example: launch-worker queues delete sim")
@_NAME
@_JSON
@click.pass_obj
def delete_command(url: str | None, name: str, as_json: bool) -> None:
    """Take a queue and its settings away; refused while runs wait in it. Its other runs stay."""
    Api(url).delete_queue(name)
    if as_json:
        terminal.echo_json({"name": name, "deleted": True})
    else:
        terminal.say(f"queue {name} is deleted")


def setting(key: str, value: Any) -> None:
    """One line of what `show` prints."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    terminal.say(f"{key:<20} {'' if value is None else text}".rstrip())


def show_settings(key: str, settings: dict[str, Any]) -> None:
    """One line each, as it would be typed."""
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


def _settings(**options: Any) -> dict[str, Any]:
    settings = common_settings(options)
    for name in ("pool", "resource", "priorities"):
        if options[name] is not None:
            settings[name] = options[name]
    if options["container"]:
        settings["container"] = parse_settings(pairs("--container", options["container"]))
    if options["variables"] is not None:
        settings["variables"] = _schema(options["variables"])
    if options["macro_env"]:
        settings["macro_env"] = [name for name in options["macro_env"] if name]
    return settings


def _schema(text: str) -> dict[str, Any]:
    """Of JSON, or of the file with this name."""
    if not text.strip():
        return {}
    what = "--variables"
    if not text.lstrip().startswith("{"):
        what = f"--variables {text!r}"
        try:
            with Path(text).open("rb") as file:
                text = file.read(_MAX_FILE_BYTES).decode()
        except OSError as error:
            raise InputError(f"{what} cannot be read: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise InputError(f"{what} is no text") from None
    try:
        schema: dict[str, Any] = read_json(text)
    except ValueError as error:
        raise InputError(f"{what} is not JSON: {error}") from None
    return schema


def _said(queue: Queue, sentence: str, *, as_json: bool) -> None:
    if as_json:
        terminal.echo_json(queue.as_json())
    else:
        terminal.say(sentence)


def _show(queue: Queue, *, as_json: bool) -> None:
    shown = queue.as_json()
    if as_json:
        terminal.echo_json(shown)
        return
    for key in (
        "name",
        "waiting",
        "later",
        "running",
        "limit",
        "paused",
        "pool",
        "rank",
        "workers",
        "resource",
        "description",
    ):
        setting(key, shown[key])
    setting("priorities", shown["priorities"])
    show_settings("container", shown["container"])
    show_settings("default", as_options(shown["defaults"]))
    for key in ("variables", "macro_env", "problem"):
        if shown[key]:
            setting(key, shown[key])
