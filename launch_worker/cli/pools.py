"""Defines `pools`: queues under one name, with a limit, defaults and an order of their own."""

from __future__ import annotations

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
    setting,
    show_settings,
)
from launch_worker.cli.options import WIDE
from launch_worker.queues.defaults import as_options
from launch_worker.terminal import Column


@click.group(invoke_without_command=True, epilog="Example: launch-worker pools create lab --limit 16")
@WIDE
@JSON
@click.pass_context
def pools_command(ctx: click.Context, wide: bool, as_json: bool) -> None:
    """List the pools, configure, pause and delete them. A queue is put into one with: queues set QUEUE --pool POOL"""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_command, wide=wide, as_json=as_json)


@pools_command.command("list", epilog="Example: launch-worker pools list --json")
@WIDE
@JSON
@click.pass_obj
def list_command(url: str | None, wide: bool, as_json: bool) -> None:
    """List the pools."""
    pools = Api(url).pools()
    if as_json:
        for pool in pools:
            terminal.echo_json(pool.as_json())
        return
    if not pools:
        terminal.say("no pools", err=True)
        return
    rows = [
        (
            pool.name,
            pool.waiting,
            pool.running,
            pool.limit,
            terminal.styled("paused", colour="yellow") if pool.paused else None,
            ",".join(pool.queues),
            pool.problem or pool.settings.get("description", ""),
        )
        for pool in pools
    ]
    terminal.table(_COLUMNS, rows, is_wide=wide)


_COLUMNS = (
    Column("POOL", least=12),
    Column("WAITING"),
    Column("RUNNING"),
    Column("LIMIT", 1),
    Column("PAUSED"),
    Column("QUEUES", 2, least=16),
    Column("DESCRIPTION", 3, least=20, falls=True),
)


@pools_command.command("show", epilog="Example: launch-worker pools show lab --json")
@NAME
@JSON
@click.pass_obj
def show_command(url: str | None, name: str, as_json: bool) -> None:
    """Show a pool, its settings, and its queues in the order in which they are served."""
    shown = Api(url).pool(name).as_json()
    if as_json:
        terminal.echo_json(shown)
        return
    for key in ("name", "waiting", "running", "limit", "paused", "queues", "description"):
        setting(key, ", ".join(shown[key]) if key == "queues" else shown[key])
    show_settings("admit", shown["admits"])
    show_settings("default", as_options(shown["defaults"]))
    if shown["problem"]:
        setting("problem", shown["problem"])


add_commands(
    pools_command,
    Kind(
        "pool",
        (LIMIT, DEFAULT, ADMIT, DESCRIPTION),
        common_settings,
        {
            "create": ("Make a pool; refused where it is there already.", "lab --limit 16 --default retries=2"),
            "set": (
                "Change some of a pool's settings. Runs that were submitted keep the defaults that they got.",
                "lab --limit none",
            ),
            "pause": ("Let nothing of any queue of a pool start any more. What runs goes on.", "lab"),
            "resume": ("Let a paused pool go on; a queue that is paused itself stays so.", "lab"),
            "delete": ("Take a pool away; refused while queues are in it.", "lab"),
        },
    ),
)
