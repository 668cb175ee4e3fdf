"""Defines `groups`: several users under one name, for roles and allowances."""

from __future__ import annotations

import click

from launch_worker import terminal
from launch_worker.cli.people import (
    DISPLAY,
    JSON,
    NAME,
    PROJECT,
    ROLE,
    YES,
    given_roles,
    registry_of,
    roles_as_text,
)
from launch_worker.errors import InputError
from launch_worker.terminal import Column
from launch_worker.untrusted.text import clean


@click.group(invoke_without_command=True, epilog="Example: launch-worker groups set ml --project lab/vision=member")
@JSON
@click.pass_context
def groups_command(ctx: click.Context, as_json: bool) -> None:
    """List, make, change and delete groups of users, which have roles and allowances of their own."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_command, as_json=as_json)


@groups_command.command("list", epilog="Example: launch-worker groups list --json")
@JSON
@click.pass_obj
def list_command(url: str | None, as_json: bool) -> None:
    """List the groups with their roles and members, also those that only an identity provider names."""
    found = registry_of(url).groups()
    if as_json:
        for group in found:
            terminal.echo_json(group.as_json())
        return
    if not found:
        terminal.say("no groups; make one with: launch-worker groups set NAME", err=True)
        return
    rows = [(group.name, group.display, roles_as_text(group.roles), ", ".join(group.members)) for group in found]
    terminal.table(_COLUMNS, rows)


_COLUMNS = (
    Column("GROUP", least=12),
    Column("NAME", 2, least=12),
    Column("ROLES", least=16),
    Column("MEMBERS", 1, least=16),
)


@groups_command.command("set", epilog="Example: launch-worker groups set ml --role member --add ada --add bob")
@NAME
@ROLE
@PROJECT
@DISPLAY
@click.option("--add", "joins", multiple=True, metavar="USER", help="Put a user into it; may be repeated.")
@click.option("--remove", "leaves", multiple=True, metavar="USER", help="Take a user out of it; may be repeated.")
@click.pass_obj
def set_command(
    url: str | None,
    name: str,
    role: str | None,
    projects: tuple[str, ...],
    display: str | None,
    joins: tuple[str, ...],
    leaves: tuple[str, ...],
) -> None:
    """Make a group, or change one. What is not given stays."""
    registry = registry_of(url, create=True)
    both = set(joins) & set(leaves)
    if both:
        raise InputError(f"{min(both)} is to be added and removed; leave one of them out")
    given = given_roles(role, projects)
    name = registry.set_group(name, display=display, given=given, adds=joins, removes=leaves)
    terminal.say(f"group {name} is set")


@groups_command.command("delete", epilog="Example: launch-worker groups delete ml")
@NAME
@YES
@click.pass_obj
def delete_command(url: str | None, name: str, yes: bool) -> None:
    """Delete a group with its roles; its members stay users."""
    registry = registry_of(url)
    if not yes:
        click.confirm(f"delete the group {clean(name)}, with its roles?", abort=True, err=True)
    registry.delete_group(name)
    terminal.say(f"group {name} is deleted")
