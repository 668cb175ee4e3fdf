"""Defines `channels`: where notices go. Addresses and secrets are never shown again."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from launch_worker import humane, terminal
from launch_worker.cli.people import JSON, NAME, YES, database_of, server_of
from launch_worker.errors import BrokerUnavailableError, InputError
from launch_worker.notifications.channel import KINDS, MAIL, Channel, with_sending
from launch_worker.settings import Settings
from launch_worker.submission.sent import me
from launch_worker.untrusted.text import clean

if TYPE_CHECKING:
    from launch_worker.api.http_channels import HttpChannels
    from launch_worker.notifications.channels import Channels

_MOST_ADDRESS = 8192
_COLUMNS = (
    terminal.Column("CHANNEL"),
    terminal.Column("KIND"),
    terminal.Column("TO", rank=1, least=12),
    terminal.Column("STATE", rank=1, least=12, falls=True),
    terminal.Column("OUTPUT", rank=4),
    terminal.Column("QUIET HOURS", rank=3),
    terminal.Column("PROJECTS", rank=2, least=16),
)
_ADDRESS = click.option(
    "--address", metavar="URL|MAIL,…", help="Where it goes. Without this it is asked for: others may see your commands."
)
_OUTPUT = click.option("--output/--no-output", "has_output", default=None, help="Send the last lines of failed runs.")
_QUIET = click.option("--quiet-hours", "quiet", metavar="HOURS", help="22:00-07:00 Europe/Vienna; none ends them.")
_PROJECT = click.option(
    "--project",
    "projects",
    multiple=True,
    metavar="PROJECT[:STATES]",
    help="Tell it of all runs of a project (lab/x:failed+crashed; lab/x:none ends that); may be repeated.",
)


def channels_of(url: str | None, *, create: bool = False) -> Channels | HttpChannels:
    """The channels: of the server, where the URL is one's, else of the database, which `create` makes."""
    settings = Settings.of_client(url=url)
    if settings.api_url:
        from launch_worker.api.http_channels import HttpChannels

        return HttpChannels(server_of(settings))
    database = database_of(settings, create=create)
    from launch_worker.notifications.channels import Channels
    from launch_worker.notifications.senders.senders import Senders

    return Channels(database, actor=me(), senders=Senders(settings))


@click.group(invoke_without_command=True, epilog="Example: launch-worker channels add ops slack")
@JSON
@click.pass_context
def channels_command(ctx: click.Context, as_json: bool) -> None:
    """List, make, try, change and delete channels, to which notices go; a submitter names them by --notify.

    They are kept in the database (LAUNCH_DATABASE_URL), with addresses and secrets that nobody is shown again.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_command, as_json=as_json)


@channels_command.command("list", epilog="Example: launch-worker channels list --json")
@JSON
@click.pass_obj
def list_command(url: str | None, as_json: bool) -> None:
    """List the channels: their kinds, what of their addresses is no secret, quiet hours, projects."""
    found = _with_sending(url, channels_of(url).shown())
    if as_json:
        for channel in found:
            terminal.echo_json(channel.as_json())
        return
    if not found:
        terminal.say("no channels; make one with: launch-worker channels add NAME KIND", err=True)
        return
    rows = [
        (
            channel.name,
            channel.kind,
            channel.hint,
            _state_of(channel),
            "yes" if channel.has_output else "no",
            str(channel.quiet or ""),
            ", ".join(projects_of(channel)),
        )
        for channel in found
    ]
    terminal.table(_COLUMNS, rows)
    if found[0].sending is not None and not found[0].sending["has_sender"]:
        terminal.say("nobody sends notices now; start: launch-worker server, or launch-worker archive run", err=True)


@channels_command.command("add", epilog="Example: launch-worker channels add team mail --address a@example.org")
@NAME
@click.argument("kind", type=click.Choice(KINDS))
@_ADDRESS
@_OUTPUT
@_QUIET
@_PROJECT
@JSON
@click.pass_obj
def add_command(
    url: str | None,
    name: str,
    kind: str,
    address: str | None,
    has_output: bool | None,
    quiet: str | None,
    projects: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make a channel. Its address is asked for, or is the first line of standard input.

    webhook: a URL, which gets signed JSON; its secret is printed, this once. slack: the URL of an incoming webhook,
    also of Mattermost and others. mail: addresses (LAUNCH_SMTP_URL sends). apprise: a URL of Apprise
    (pip install 'launch_worker[notify]').
    """
    channels = channels_of(url, create=True)
    made, secret = channels.add(
        name,
        kind,
        address if address is not None else _asked(kind),
        has_output=has_output is not False,
        quiet=quiet or "",
        projects=projects,
    )
    _say(made, secret, f"channel {made.name} is made; try it with: launch-worker channels test {made.name}", as_json)


@channels_command.command("set", epilog="Example: launch-worker channels set ops --quiet-hours '22:00-07:00 UTC'")
@NAME
@_ADDRESS
@click.option("--new-address", "asks", is_flag=True, help="Ask for a new address.")
@_OUTPUT
@_QUIET
@_PROJECT
@click.option("--new-secret", "has_new_secret", is_flag=True, help="Make a webhook's new secret, and print it.")
@JSON
@click.pass_obj
def set_command(
    url: str | None,
    name: str,
    address: str | None,
    asks: bool,
    has_output: bool | None,
    quiet: str | None,
    projects: tuple[str, ...],
    has_new_secret: bool,
    as_json: bool,
) -> None:
    """Change a channel; what is not given stays."""
    channels = channels_of(url)
    if asks and address is None:
        known = {channel.name: channel.kind for channel in channels.shown()}
        address = _asked(known.get(name, ""))
    changed, secret = channels.set(
        name,
        address=address,
        has_output=has_output,
        quiet=quiet,
        projects=projects,
        has_new_secret=has_new_secret,
    )
    _say(changed, secret, f"channel {changed.name} is changed", as_json)


@channels_command.command("test", epilog="Example: launch-worker channels test ops")
@NAME
@click.pass_obj
def test_command(url: str | None, name: str) -> None:
    """Send a test to a channel: from the server, or without one from here."""
    channels_of(url).test(name)
    terminal.say(f"a test was sent to the channel {name}")


@channels_command.command("delete", epilog="Example: launch-worker channels delete ops")
@NAME
@YES
@click.pass_obj
def delete_command(url: str | None, name: str, yes: bool) -> None:
    """Delete a channel; notices that wait for it are dropped."""
    channels = channels_of(url)
    if not yes:
        click.confirm(f"delete the channel {clean(name)}?", abort=True, err=True)
    channels.delete(name)
    terminal.say(f"channel {name} is deleted")


def _with_sending(url: str | None, found: list[Channel]) -> list[Channel]:
    """The channels with how the sending goes: a server says so by itself, and without one Redis does."""
    settings = Settings.of_client(url=url)
    if settings.api_url:
        return found
    from launch_worker.store.store import Store

    store = Store(settings.redis_url)
    click.get_current_context().call_on_close(store.close)
    try:
        return with_sending(found, store.outbox_state())
    except BrokerUnavailableError:
        return found


def _state_of(channel: Channel) -> str:
    """How the sending goes, in a few words."""
    now = channel.sending
    if now is None:
        return ""
    since = terminal.ago(now["failing_since"]) if now["failing_since"] else ""
    words = [f"fails, first {since}: {now['error'] or ''}"] if since else []
    words += [f"{humane.plural(now['waiting'], 'notice')} waiting"] if now["waiting"] else []
    words += [f"{humane.plural(now['lost'], 'notice')} lost"] if now["lost"] else []
    return "; ".join(words) or (f"last sent {terminal.ago(now['sent_at'])}" if now["sent_at"] else "nothing sent yet")


def projects_of(channel: Channel) -> list[str]:
    """The projects of a channel as an admin writes them: `lab/x:failed+crashed`."""
    return [name + (f":{'+'.join(states)}" if states else "") for name, states in sorted(channel.projects.items())]


def _asked(kind: str) -> str:
    """An address that is typed, hidden as the secret that it mostly is, or the first line of standard input."""
    if sys.stdin.isatty():
        text: str = click.prompt("address", hide_input=kind != MAIL, err=True)
        return text
    line = sys.stdin.readline(_MOST_ADDRESS).strip()
    if not line:
        raise InputError("standard input has no address; type it at a terminal, give it as a line, or with --address")
    return line


def _say(channel: Channel, secret: str, sentence: str, as_json: bool) -> None:
    if as_json:
        terminal.echo_json(channel.as_json() | ({"secret": secret} if secret else {}))
        return
    terminal.say(sentence, err=bool(secret))
    if secret:
        terminal.say("its secret, by which the receiver checks signatures, is not shown again:", err=True)
        terminal.say(secret)
