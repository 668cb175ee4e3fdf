"""Defines `queues`: which queues there are, and what an admin configures of one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from launch_worker import terminal
from launch_worker.api.client import Api
from launch_worker.cli.configuring import (
    ADMIT,
    DEFAULT,
    DESCRIPTION,
    JSON,
    LIMIT,
    NAME,
    Kind,
    add_commands,
    common_settings,
    or_none,
    pairs,
    setting,
    show_settings,
)
from launch_worker.cli.options import WIDE
from launch_worker.cli.watching import WATCH, show_or_watch
from launch_worker.errors import InputError
from launch_worker.model.requirements import AUTO, NONE
from launch_worker.model.units import format_size
from launch_worker.queues.confinement import LIMITS, SANDBOXES
from launch_worker.queues.defaults import as_options
from launch_worker.queues.described import MAX_RANK, Queue
from launch_worker.queues.queue import RESOURCES, parse_settings
from launch_worker.terminal import Column, Screen, Styled, Table
from launch_worker.untrusted.text import read_json

_MAX_FILE_BYTES = 1 << 20

_SETTINGS = (
    LIMIT,
    click.option("--pool", metavar="POOL", help="Put it into this pool; '' takes it out."),
    click.option(
        "--rank",
        callback=or_none(1, MAX_RANK),
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
        "--environment",
        type=click.Choice([AUTO, NONE]),
        help="The Python environment of runs that bring code; the same as --default requirements=….",
    ),
    click.option(
        "--variables", metavar="FILE|JSON", help="JSON Schema of the values that runs give (--set); '' takes it away."
    ),
    click.option(
        "--macro-env",
        multiple=True,
        metavar="NAME",
        help="A variable of the worker's that macros may use; may be repeated, '' takes all away.",
    ),
    click.option(
        "--allow-env",
        multiple=True,
        metavar="PATTERN",
        help="The worker's variables that runs may ask for (--env-from); may be repeated, none, '' for no rule.",
    ),
    click.option(
        "--allow-uri",
        "allow_uris",
        multiple=True,
        metavar="PATTERN",
        help="Git URLs from which code may come, submodules included; may be repeated, none, '' for no rule.",
    ),
    click.option("--priorities/--no-priorities", default=None, help="Whether its runs may have priorities."),
    click.option(
        "--sandbox",
        type=click.Choice(SANDBOXES),
        help="Sandbox of its processes: private hides the worker and other jobs, strict the network too.",
    ),
    click.option(
        "--writable",
        multiple=True,
        metavar="FOLDER",
        help="A folder in which a process in a sandbox may write; may be repeated, '' takes all away.",
    ),
    click.option(
        "--run-as",
        metavar="USER|submitter",
        help="Account of its processes on the workers' machines; '' is the worker's own.",
    ),
    click.option(
        "--account",
        "accounts",
        multiple=True,
        metavar="SUBMITTER=USER",
        help="The account of a submitter, for --run-as submitter; no value takes it away; may be repeated.",
    ),
    click.option(
        "--limit-memory", metavar="SIZE", help="Most memory of all processes of one job (16G); none takes it away."
    ),
    click.option(
        "--limit-pids",
        callback=or_none(1, 1 << 22),
        metavar="N",
        help="Most processes and threads of one job; none takes the limit away.",
    ),
    click.option("--limit-cpus", metavar="N", help="Most cores that one job may use (1.5); none takes it away."),
    ADMIT,
    click.option(
        "--signer",
        "signers",
        multiple=True,
        metavar="KEY",
        help="Takes only runs that this trusted key has signed, * for each; may be repeated, '' takes all away.",
    ),
    click.option(
        "--sealing-key",
        metavar="seal:…",
        help="Public key for secrets of its runs (launch-worker keys new --for-queue); '' takes it away.",
    ),
    DESCRIPTION,
)


@click.group(invoke_without_command=True, epilog="Example: launch-worker queues set gpu --limit 4")
@WATCH
@WIDE
@JSON
@click.pass_context
def queues_command(ctx: click.Context, watch: bool, wide: bool, as_json: bool) -> None:
    """List the queues, configure, pause and delete them. A queue needs none of this: its first run makes it."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_command, watch=watch, wide=wide, as_json=as_json)


@queues_command.command("list", epilog="Example: launch-worker queues list --json")
@WATCH
@WIDE
@JSON
@click.pass_obj
def list_command(url: str | None, watch: bool, wide: bool, as_json: bool) -> None:
    """List the queues."""
    transport = Api(url).transport

    def show(queues: Sequence[Queue]) -> None:
        if as_json:
            for queue in queues:
                terminal.echo_json(queue.as_json())
        elif queues:
            terminal.put(_lines(queues, Screen.of(is_wide=wide)))
        else:
            terminal.say("no queues", err=True)

    show_or_watch(transport, transport.queues, draw=_lines, show=show, watch=watch, as_json=as_json)


_COLUMNS = (
    Column("QUEUE", least=12),
    Column("WAITING"),
    Column("RUNNING"),
    Column("LIMIT", 1),
    Column("PAUSED"),
    Column("WORKERS", 2),
    Column("LATER", 3),
    Column("POOL", 4, least=8),
    Column("RESOURCE", 5),
    Column("DESCRIPTION", 6, least=20, falls=True),
)


def _lines(queues: Sequence[Queue], screen: Screen) -> list[Styled]:
    rows = [
        (
            queue.name,
            queue.waiting,
            queue.running,
            queue.limit,
            terminal.styled("paused", colour="yellow") if queue.paused else None,
            queue.workers,
            queue.later or (None if screen.is_terminal else 0),
            queue.pool,
            queue.settings.get("resource"),
            queue.problem or queue.settings.get("description"),
        )
        for queue in queues
    ]
    return Table(_COLUMNS, rows).lines(screen) if rows else [terminal.styled("no queues")]


@queues_command.command("show", epilog="Example: launch-worker queues show gpu --json")
@NAME
@JSON
@click.pass_obj
def show_command(url: str | None, name: str, as_json: bool) -> None:
    """Show a queue and its settings."""
    _show(Api(url).queue(name), as_json=as_json)


def _settings(options: dict[str, Any]) -> dict[str, Any]:
    settings = common_settings(options)
    for name in ("pool", "resource", "priorities", "sandbox", "run_as", "sealing_key"):
        if options[name] is not None:
            settings[name] = options[name]
    if options["environment"] is not None:
        settings["defaults"] = settings.get("defaults", {}) | {"requirements": options["environment"]}
    if options["container"]:
        settings["container"] = parse_settings(pairs("--container", options["container"]))
    if options["variables"] is not None:
        settings["variables"] = _schema(options["variables"])
    for name in ("macro_env", "allow_env", "allow_uris", "writable", "signers"):
        if options[name]:
            settings[name] = [word for word in options[name] if word]
    if options["accounts"]:
        settings["accounts"] = {name: user or None for name, user in pairs("--account", options["accounts"]).items()}
    limits = {name: _limit(name, options[f"limit_{name}"]) for name in LIMITS if options[f"limit_{name}"] is not None}
    return settings | ({"limits": limits} if limits else {})


def _limit(name: str, text: str | int) -> str | float | None:
    """A limit as it was typed; None takes it away."""
    if text == "none":
        return None
    if name != "cpus":
        return text
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--limit-cpus {str(text)[:60]!r} is neither a number of cores nor none") from None


def _schema(text: str) -> dict[str, Any]:
    """The schema of a JSON text, or of the file with this name."""
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
    show_settings("admit", shown["admits"])
    show_settings("container", shown["container"])
    show_settings("default", as_options(shown["defaults"]))
    show_settings("account", shown["accounts"])
    for key, value in shown["limits"].items():
        setting(f"limit_{key}", format_size(value) if key == "memory" else value)
    for key in (
        *(
            "sandbox",
            "writable",
            "run_as",
            "variables",
            "macro_env",
            "allow_env",
            "allow_uris",
            "signers",
            "sealing_key",
        ),
        "problem",
    ):
        if shown[key]:
            setting(key, shown[key])


add_commands(
    queues_command,
    Kind(
        "queue",
        _SETTINGS,
        _settings,
        {
            "create": (
                "Make a queue; refused where it is there already.",
                "sim --resource container --container image=sim:3 --limit 8",
            ),
            "set": (
                "Change some of a queue's settings. Runs that were submitted keep the defaults that they got.",
                "gpu --limit 4 --default timeout=2h",
            ),
            "pause": ("Let nothing of a queue start any more. What runs goes on.", "gpu"),
            "resume": ("Let a paused queue go on.", "gpu"),
            "delete": (
                "Take a queue and its settings away; refused while runs wait in it. Its other runs stay.",
                "sim",
            ),
        },
    ),
)
