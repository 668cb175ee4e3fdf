"""Defines `users`: who may log in to the server, how, and with which roles."""

from __future__ import annotations

import click

from launch_worker import terminal
from launch_worker.cli.people import (
    DISPLAY,
    JSON,
    NAME,
    PROJECT,
    ROLE,
    ROLES,
    YES,
    given_roles,
    new_password,
    registry_of,
    roles_as_text,
    say,
)
from launch_worker.errors import InputError
from launch_worker.model.units import isoformat
from launch_worker.people.described import roles_as_json
from launch_worker.terminal import Column
from launch_worker.untrusted.text import clean


@click.group(invoke_without_command=True, epilog="Example: launch-worker users add ada --admin")
@JSON
@click.pass_context
def users_command(ctx: click.Context, as_json: bool) -> None:
    """List, add, change and delete the people of the server. They are kept in the database (LAUNCH_DATABASE_URL)."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_command, as_json=as_json)


@users_command.command("list", epilog="Example: launch-worker users list --json")
@JSON
@click.pass_obj
def list_command(url: str | None, as_json: bool) -> None:
    """List the users, their ways to log in, their groups and the roles that they were given themselves."""
    found = registry_of(url).users()
    if as_json:
        for user in found:
            terminal.echo_json(user.as_json())
        return
    if not found:
        terminal.say("no users; add the first one with: launch-worker users add NAME --admin", err=True)
        return
    rows = [
        (
            user.name,
            user.display,
            "disabled" if user.disabled_at is not None else ", ".join(user.ways) or "tokens",
            roles_as_text(user.roles),
            ", ".join(user.groups),
            terminal.when(isoformat(user.login_at)),
        )
        for user in found
    ]
    terminal.table(_COLUMNS, rows)


_COLUMNS = (
    Column("USER", least=12),
    Column("NAME", 2, least=12),
    Column("WAYS IN", least=10),
    Column("ROLES", 1, least=16),
    Column("GROUPS", 4, least=12),
    Column("LAST LOGIN", 3, right=True),
)


@users_command.command("add", epilog="Example: launch-worker users add ada --role operator --group ml")
@NAME
@click.option("--admin", "is_admin", is_flag=True, help="The same as --role admin.")
@click.option("--role", type=click.Choice(ROLES), help="The system-wide role (default: member, without --project).")
@PROJECT
@click.option("--group", "groups", multiple=True, metavar="GROUP", help="Put the user into it; may be repeated.")
@DISPLAY
@click.option("--service", "is_service", is_flag=True, help="No password: a program, which has tokens only.")
@click.option("--invite", "is_invited", is_flag=True, help="No password: the first OIDC login of this name is theirs.")
@JSON
@click.pass_obj
def add_command(
    url: str | None,
    name: str,
    is_admin: bool,
    role: str | None,
    projects: tuple[str, ...],
    groups: tuple[str, ...],
    display: str | None,
    is_service: bool,
    is_invited: bool,
    as_json: bool,
) -> None:
    """Add a user. The password is asked for, or is the first line of standard input."""
    if is_admin and role not in (None, "admin"):
        raise InputError("--admin and --role say different things; leave one of them out")
    if is_service and is_invited:
        raise InputError("--service and --invite exclude each other: a program does not log in by OIDC")
    role = "admin" if is_admin else role or (None if projects else "member")
    given = given_roles(role, projects)
    registry = registry_of(url, create=True)
    password = None if is_service or is_invited else new_password()
    name = registry.add_user(
        name, display=display or "", password=password, is_invited=is_invited, given=given, in_groups=groups
    )
    sentence = f"user {name} is added"
    if is_service:
        sentence += f"; make a token with: launch-worker tokens create NAME --user {name}"
    say(sentence, {"name": name, **roles_as_json(given), "groups": sorted(groups)}, as_json=as_json)


@users_command.command("set", epilog="Example: launch-worker users set ada --role member --project lab/secret=operator")
@NAME
@ROLE
@PROJECT
@click.option("--join", "joins", multiple=True, metavar="GROUP", help="Put the user into it; may be repeated.")
@click.option("--leave", "leaves", multiple=True, metavar="GROUP", help="Take the user out of it; may be repeated.")
@DISPLAY
@click.option("--password", "has_new_password", is_flag=True, help="Ask for a new password; ends their sessions.")
@click.option("--no-password", "has_no_password", is_flag=True, help="Take the password away; ends their sessions.")
@click.option("--invite", "is_invited", is_flag=True, help="The next OIDC login of this name is theirs.")
@click.option("--disable/--enable", "is_disabled", default=None, help="Shut the user out, or let them in again.")
@click.pass_obj
def set_command(
    url: str | None,
    name: str,
    role: str | None,
    projects: tuple[str, ...],
    joins: tuple[str, ...],
    leaves: tuple[str, ...],
    display: str | None,
    has_new_password: bool,
    has_no_password: bool,
    is_invited: bool,
    is_disabled: bool | None,
) -> None:
    """Change a user: roles, groups, ways in. A role `none` takes one away; what is not given stays."""
    given = given_roles(role, projects)
    is_more = bool(joins or leaves or display is not None or is_invited or is_disabled is not None)
    if not (given or is_more or has_new_password or has_no_password):
        raise InputError("nothing to change was given; see: launch-worker users set --help")
    if has_new_password and has_no_password:
        raise InputError("--password and --no-password exclude each other")
    registry = registry_of(url)
    password = new_password() if has_new_password else None
    registry.set_user(
        name,
        display=display,
        password=password,
        has_no_password=has_no_password,
        is_invited=is_invited,
        is_disabled=is_disabled,
        given=given,
        joins=joins,
        leaves=leaves,
    )
    terminal.say(f"user {name} is changed")


@users_command.command("delete", epilog="Example: launch-worker users delete ada")
@NAME
@YES
@click.pass_obj
def delete_command(url: str | None, name: str, yes: bool) -> None:
    """Delete a user with tokens, sessions and roles. The user's runs stay, and whoever gets the name next owns them."""
    registry = registry_of(url)
    if not yes:
        click.confirm(f"delete the user {clean(name)}, with all tokens and roles?", abort=True, err=True)
    registry.delete_user(name)
    terminal.say(f"user {name} is deleted")


@users_command.command("logout", epilog="Example: launch-worker users logout ada")
@NAME
@click.pass_obj
def logout_command(url: str | None, name: str) -> None:
    """End all sessions of a user in browsers; API tokens stay (launch-worker tokens revoke)."""
    ended = registry_of(url).revoke_sessions(name)
    terminal.say(f"{ended} session{'' if ended == 1 else 's'} of {name} ended")


@users_command.command("hash", epilog="Example: launch-worker users hash < password.txt")
def hash_command() -> None:
    """Print the hash of a password for a users file. The password is asked for, or read from standard input."""
    from launch_worker.people.passwords import check_password, hash_password

    password = new_password()
    check_password(password)
    terminal.say(hash_password(password))
