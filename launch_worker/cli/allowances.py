"""Defines `allowances`: what the runs of a user, a group or a project may have at once."""

from __future__ import annotations

import click

from launch_worker import terminal
from launch_worker.api.client import Api
from launch_worker.cli.configuring import JSON, or_none
from launch_worker.errors import InputError
from launch_worker.model.allowance import MOST
from launch_worker.terminal import Column

_NAME = click.argument("name", metavar="KIND:NAME")
_LIMITS = ("waiting", "running", "gpus")


@click.group(invoke_without_command=True, epilog="Example: launch-worker allowances set user:ada --running 20 --gpus 8")
@JSON
@click.pass_context
def allowances_command(ctx: click.Context, as_json: bool) -> None:
    """Say how many runs of a user, a group or a project may wait and run, and how many GPUs they may hold.

    They count the runs that are submitted through the server while there is an allowance.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_command, as_json=as_json)


@allowances_command.command("list", epilog="Example: launch-worker allowances list --json")
@JSON
@click.pass_obj
def list_command(url: str | None, as_json: bool) -> None:
    """List the allowances, and what there is of each now."""
    found = Api(url).transport.allowances()
    if as_json:
        for one in found:
            terminal.echo_json(one.as_json())
        return
    if not found:
        terminal.say("no allowances; set one with: launch-worker allowances set user:NAME --running N", err=True)
        return
    rows = [
        (
            one.name,
            _of(one.waiting, one.most_waiting),
            _of(one.running, one.most_running),
            _of(one.gpus, one.most_gpus),
        )
        for one in found
    ]
    terminal.table(_COLUMNS, rows)


_COLUMNS = (
    Column("OF", least=16),
    Column("WAITING", right=True),
    Column("RUNNING", right=True),
    Column("GPUS", right=True),
)


@allowances_command.command("set", epilog="Example: launch-worker allowances set project:lab/vision --waiting 10000")
@_NAME
@click.option("--waiting", callback=or_none(0, MOST), metavar="N", help="Most waiting runs; none takes the limit away.")
@click.option("--running", callback=or_none(0, MOST), metavar="N", help="Most running runs; none takes the limit away.")
@click.option("--gpus", callback=or_none(0, MOST), metavar="N", help="Most GPUs held; none takes the limit away.")
@click.pass_obj
def set_command(url: str | None, /, name: str, **given: int | str | None) -> None:
    """Set an allowance: of user:NAME, group:NAME or project:ENTITY/PROJECT. What is not given stays."""
    if all(value is None for value in given.values()):
        raise InputError("nothing to change was given; see: launch-worker allowances set --help")
    api = Api(url)
    before = next((one.as_json() for one in api.transport.allowances() if one.name == name), {})
    most = {limit: before.get(f"most_{limit}") if given[limit] is None else given[limit] for limit in _LIMITS}
    numbers = {limit: value if isinstance(value, int) else None for limit, value in most.items()}
    is_new = api.transport.allow(name, waiting=numbers["waiting"], running=numbers["running"], gpus=numbers["gpus"])
    gone = all(number is None for number in numbers.values())
    terminal.say(f"the allowance of {name} is {'removed' if gone else 'made' if is_new else 'changed'}")


@allowances_command.command("delete", epilog="Example: launch-worker allowances delete user:ada")
@_NAME
@click.pass_obj
def delete_command(url: str | None, name: str) -> None:
    """Remove an allowance; runs that waited for it go on."""
    api = Api(url)
    if not any(one.name == name for one in api.transport.allowances()):
        raise InputError(f"there is no allowance of {name}; see: launch-worker allowances")
    api.transport.allow(name, waiting=None, running=None, gpus=None)
    terminal.say(f"the allowance of {name} is removed")


def _of(count: int, most: int | None) -> str:
    return f"{count}" if most is None else f"{count} of {most}"
