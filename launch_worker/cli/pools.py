"""`pools`: named groups of queues with a limit, defaults and an order of their own."""

from __future__ import annotations

from typing import Any

import click

from launch_worker import terminal
from launch_worker.api.client import Api
from launch_worker.api.queues import Pool
from launch_worker.cli.queues import DEFAULT, DESCRIPTION, LIMIT, common_settings, setting, show_settings
from launch_worker.cli.submit_options import with_options
from launch_worker.errors import InputError
from launch_worker.queues.defaults import as_options

_NAME = click.argument("name")
_JSON = click.option("--json", "as_json", is_flag=True, help="JSON for machines.")
_SETTINGS = (LIMIT, DEFAULT, DESCRIPTION)


@click.group(invoke_without_command=True, epilog="Example: launch-worker pools create lab --limit 16")
@_JSON
@click.pass_context
def pools_command(ctx: click.Context, as_json: bool) -> None:
    """List the pools, configure, pause and delete them. A queue is put into one with: queues set QUEUE --pool POOL"""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_command, as_json=as_json)


@pools_command.command("list", epilog="Example: launch-worker pools list --json")
@_JSON
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
@_NAME
@_JSON
@click.pass_obj
def show_command(url: str | None, name: str, as_json: bool) -> None:
    """Show a pool, its settings, and its queues in the order in which they are served."""
    shown = Api(url).pool(name).as_json()
    if as_json:
        terminal.echo_json(shown)
        return
    for key in ("name", "waiting", "running", "limit", "paused", "queues", "description"):
        setting(key, ", ".join(shown[key]) if key == "queues" else shown[key])
    show_settings("default", as_options(shown["defaults"]))
    if shown["problem"]:
        setting("problem", shown["problem"])


@pools_command.command("create", epilog="Example: launch-worker pools create lab --limit 16 --default retries=2")
@_NAME
@with_options(*_SETTINGS)
@_JSON
@click.pass_obj
def create_command(url: str | None, /, name: str, as_json: bool, **options: Any) -> None:
    """Make a pool; refused where it is there already."""
    pool = Api(url).create_pool(name, **common_settings(options))
    _said(pool, f"pool {name} is made", as_json=as_json)


@pools_command.command("set", epilog="Example: launch-worker pools set lab --limit none")
@_NAME
@with_options(*_SETTINGS)
@_JSON
@click.pass_obj
def set_command(url: str | None, /, name: str, as_json: bool, **options: Any) -> None:
    """Change some of a pool's settings. Runs that were submitted keep the defaults that they got."""
    settings = common_settings(options)
    if not settings:
        raise InputError("nothing to change was given; see: launch-worker pools set --help")
    pool = Api(url).set_pool(name, **settings)
    _said(pool, f"pool {name} is configured", as_json=as_json)


@pools_command.command("pause", epilog="Example: launch-worker pools pause lab")
@_NAME
@_JSON
@click.pass_obj
def pause_command(url: str | None, name: str, as_json: bool) -> None:
    """Let nothing of any queue of a pool start any more. What runs goes on."""
    api = Api(url)
    api.pause_pool(name)
    _said(api.pool(name), f"pool {name} is paused", as_json=as_json)


@pools_command.command("resume", epilog="Example: launch-worker pools resume lab")
@_NAME
@_JSON
@click.pass_obj
def resume_command(url: str | None, name: str, as_json: bool) -> None:
    """Let a paused pool go on; a queue that is paused itself stays so."""
    api = Api(url)
    api.resume_pool(name)
    _said(api.pool(name), f"pool {name} goes on", as_json=as_json)


@pools_command.command("delete", epilog="Example: launch-worker pools delete lab")
@_NAME
@_JSON
@click.pass_obj
def delete_command(url: str | None, name: str, as_json: bool) -> None:
    """Take a pool away; refused while queues are in it."""
    Api(url).delete_pool(name)
    if as_json:
        terminal.echo_json({"name": name, "deleted": True})
    else:
        terminal.say(f"pool {name} is deleted")


def _said(pool: Pool, sentence: str, *, as_json: bool) -> None:
    if as_json:
        terminal.echo_json(pool.as_json())
    else:
        terminal.say(sentence)
