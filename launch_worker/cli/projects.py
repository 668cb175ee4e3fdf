"""Defines `projects`: which are private, and who has a role in them."""

from __future__ import annotations

from collections.abc import Mapping

import click

from launch_worker import terminal
from launch_worker.cli.people import JSON, YES, pairs, registry_of
from launch_worker.people.roles import Role
from launch_worker.terminal import Column
from launch_worker.untrusted.text import clean

_NAME = click.argument("name", metavar="ENTITY/PROJECT")


@click.group(invoke_without_command=True, epilog="Example: launch-worker projects set lab/x --private --user ada=admin")
@JSON
@click.pass_context
def projects_command(ctx: click.Context, as_json: bool) -> None:
    """Say who has a role in a project, and make projects private. Without that, system-wide roles are those in it."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_command, as_json=as_json)


@projects_command.command("list", epilog="Example: launch-worker projects list --json")
@JSON
@click.pass_obj
def list_command(url: str | None, as_json: bool) -> None:
    """List the projects of which something is set; all others are open to the system-wide roles."""
    found = registry_of(url).projects()
    if as_json:
        for project in found:
            terminal.echo_json(project.as_json())
        return
    if not found:
        terminal.say("nothing is set of any project; see: launch-worker projects set --help", err=True)
        return
    rows = [
        (project.name, "private" if project.is_private else "", _text(project.users), _text(project.groups))
        for project in found
    ]
    terminal.table(_COLUMNS, rows)


_COLUMNS = (
    Column("PROJECT", least=16),
    Column("PRIVATE"),
    Column("USERS", least=16),
    Column("GROUPS", 1, least=16),
)


@projects_command.command("set", epilog="Example: launch-worker projects set lab/secret --private --group ml=member")
@_NAME
@click.option("--private/--public", "is_private", default=None, help="Whether only those with a role in it see it.")
@click.option(
    "--user", "users", multiple=True, metavar="USER=ROLE", help="Give a role in it, or none; may be repeated."
)
@click.option("--group", "groups", multiple=True, metavar="GROUP=ROLE", help="The same for a group; may be repeated.")
@click.pass_obj
def set_command(
    url: str | None, name: str, is_private: bool | None, users: tuple[str, ...], groups: tuple[str, ...]
) -> None:
    """Make a project private or public, and give roles in it. What is not given stays."""
    registry_of(url, create=True).set_project(
        name,
        is_private=is_private,
        to_users=pairs(users, "--user USER=ROLE"),
        to_groups=pairs(groups, "--group GROUP=ROLE"),
    )
    terminal.say(f"project {name} is set")


@projects_command.command("delete", epilog="Example: launch-worker projects delete lab/secret")
@_NAME
@YES
@click.pass_obj
def delete_command(url: str | None, name: str, yes: bool) -> None:
    """Forget what is set of a project, with all roles in it; its runs stay, and are private no more."""
    registry = registry_of(url)
    if not yes:
        click.confirm(f"forget what is set of {clean(name)}? Its runs are private no more", abort=True, err=True)
    registry.delete_project(name)
    terminal.say(f"nothing is set of project {name} any more")


def _text(given: Mapping[str, Role]) -> str:
    return ", ".join(f"{name}={role.label}" for name, role in sorted(given.items()))
