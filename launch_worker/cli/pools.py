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
from launch_worker.queues.defaults import as_options


@click.group(invoke_without_command=True, epilog="Example: launch-worker pools create lab --limit 16")
@JSON
@click.pass_context
def pools_command(ctx: click.Context, as_json: bool) -> None:
    """List the pools, configure, pause and delete them. A queue is put into one with: queues set QUEUE --pool POOL"""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_command, as_json=as_json)


@pools_command.command("list", epilog="Example: launch-worker pools list --json")
@JSON
@click.pass_obj
def list_command(url: str | None, as_json: bool) -> None:
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
            "" if pool.limit is None else pool.limit,
            "paused" if pool.paused else "",
            ",".join(pool.queues),
            pool.problem or pool.settings.get("description", ""),
        )
        for pool in pools
    ]
    terminal.table(("POOL", "WAITING", "RUNNING", "LIMIT", "PAUSED", "QUEUES", "DESCRIPTION"), rows)


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
