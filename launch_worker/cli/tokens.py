"""Defines `tokens`: API tokens, by which programs and terminals log in to the server."""

from __future__ import annotations

import click

from launch_worker import terminal
from launch_worker.cli.people import JSON, NAME, ROLES, registry_of
from launch_worker.model.units import isoformat, parse_duration
from launch_worker.people.roles import Role
from launch_worker.terminal import Column


@click.group(invoke_without_command=True, epilog="Example: launch-worker tokens create laptop --user ada")
@JSON
@click.pass_context
def tokens_command(ctx: click.Context, as_json: bool) -> None:
    """List, make and revoke API tokens (LAUNCH_API_TOKEN). Of a token only a hash is kept."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_command, user=None, as_json=as_json)


@tokens_command.command("list", epilog="Example: launch-worker tokens list --user ada")
@click.option("--user", metavar="USER", help="Only this user's tokens.")
@JSON
@click.pass_obj
def list_command(url: str | None, user: str | None, as_json: bool) -> None:
    """List the tokens: whose, with which role at most, until when, and when they were last used."""
    found = registry_of(url).tokens(user)
    if as_json:
        for token in found:
            terminal.echo_json(token.as_json())
        return
    if not found:
        terminal.say("no tokens; make one with: launch-worker tokens create NAME --user USER", err=True)
        return
    rows = [
        (
            token.id,
            token.user,
            token.name,
            token.role.label,
            terminal.when(isoformat(token.expires_at), "never"),
            terminal.when(isoformat(token.used_at), "never"),
            token.used_from,
        )
        for token in found
    ]
    terminal.table(_COLUMNS, rows)


_COLUMNS = (
    Column("ID"),
    Column("USER", least=10),
    Column("NAME", least=10),
    Column("ROLE AT MOST", 3),
    Column("EXPIRES", 1, right=True),
    Column("LAST USED", 2, right=True),
    Column("FROM", 4, least=10),
)


@tokens_command.command("create", epilog="Example: launch-worker tokens create nightly --user ci-bot --expires 365d")
@NAME
@click.option("--user", default="", metavar="USER", help="Whose token it is (through a server: yours).")
@click.option(
    "--role",
    type=click.Choice(ROLES),
    default=Role.ADMIN.label,
    show_default=True,
    help="The most that it may do; never more than its user.",
)
@click.option("--expires", default="90d", show_default=True, metavar="TIME", help="How long it lasts, or never.")
@JSON
@click.pass_obj
def create_command(url: str | None, name: str, user: str, role: str, expires: str, as_json: bool) -> None:
    """Make a token and print it, this once: nobody can read it again."""
    lasts_s = None if expires == "never" else parse_duration(expires, what="--expires")
    text, token = registry_of(url).create_token(user, name, role=Role.parse(role), lasts_s=lasts_s)
    if as_json:
        terminal.echo_json(token.as_json() | {"token": text})
        return
    until = f"until {isoformat(token.expires_at)}" if token.expires_at is not None else "without an end"
    terminal.say(f"token {token.id} of {token.user}, {until}; it is not shown again:", err=True)
    terminal.say(text)


@tokens_command.command("revoke", epilog="Example: launch-worker tokens revoke 3f2a9c04d1e7")
@click.argument("token_ids", metavar="ID...", nargs=-1, required=True)
@click.pass_obj
def revoke_command(url: str | None, token_ids: tuple[str, ...]) -> None:
    """Revoke tokens by their ids; they work no more after a second."""
    registry = registry_of(url)
    for token_id in token_ids:
        registry.revoke_token(token_id)
        terminal.say(f"token {token_id} is revoked")
