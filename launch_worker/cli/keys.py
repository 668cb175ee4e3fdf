"""Defines `keys`: signing keys, which prove who submitted a run, and sealing keys, for secrets of a queue's runs."""

from __future__ import annotations

import os
from pathlib import Path

import click

from launch_worker import terminal
from launch_worker.api.client import Api
from launch_worker.cli.configuring import JSON
from launch_worker.config_folder import sealing_key_folder, signing_key_file
from launch_worker.errors import InputError
from launch_worker.settings import Settings
from launch_worker.terminal import Column
from launch_worker.trust.keys import PrivateKey, new_private, read_private, write_private

_FILE = click.option("--file", metavar="FILE", type=Path, help="Private key's file, in place of the usual one.")


@click.group(invoke_without_command=True, epilog="Example: launch-worker keys trust sign:… --name ada")
@JSON
@click.pass_context
def keys_command(ctx: click.Context, as_json: bool) -> None:
    """List, make, trust and revoke keys: signing keys prove who submitted a run, sealing keys are for its secrets."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_command, as_json=as_json)


@keys_command.command("list", epilog="Example: launch-worker keys list --json")
@JSON
@click.pass_obj
def list_command(url: str | None, as_json: bool) -> None:
    """List the signing keys that workers trust, and those that were revoked."""
    found = Api(url).transport.trusted_keys()
    if as_json:
        for key in found:
            terminal.echo_json(key.as_json())
        return
    if not found:
        terminal.say("no trusted keys; trust one with: launch-worker keys trust sign:… --name NAME", err=True)
        return
    rows = []
    for key in found:
        shown = key.as_json()
        is_of = "a server" if key.is_server else "a submitter"
        since, until = terminal.when(shown["trusted_at"], ""), terminal.when(shown["revoked_at"], "no")
        rows.append((key.id, key.name, is_of, since, until, str(key.public)))
    terminal.table(_COLUMNS, rows)


_COLUMNS = (
    Column("ID"),
    Column("NAME", least=10),
    Column("OF", 3),
    Column("TRUSTED", 2, right=True),
    Column("REVOKED", 1, right=True),
    Column("KEY", 4, least=12),
)


@keys_command.command("new", epilog="Example: launch-worker keys new --for-queue gpu")
@click.option("--for-queue", "queue", metavar="QUEUE", help="A sealing key for the secrets of this queue's runs.")
@_FILE
@click.pass_obj
def new_command(url: str | None, queue: str | None, file: Path | None) -> None:
    """Make a signing key, in a file that only you can read, and print its public part for an admin to trust.

    With --for-queue it is a sealing key: the queue gets its public part at once, its workers need the file.
    """
    if queue is None:
        path = file or Settings.from_env().signing_key or signing_key_file(os.environ)
        if path is None:
            raise InputError("you have no folder for configuration; name a file with --file")
        key = new_private("sign")
        write_private(path, key)
        _say_key(key, path)
        terminal.say(f"an admin trusts it with: launch-worker keys trust {key.public} --name NAME", err=True)
        return
    folder = sealing_key_folder(os.environ)
    if file is None and folder is None:
        raise InputError("you have no folder for configuration; name a file with --file")
    api, key = Api(url), new_private("seal")
    # Refused before the file is made: by who may not, or for a queue with settings that nobody can read.
    known = {one.name for one in api.queues()}
    path = file or (folder or Path()) / f"{queue}-{key.public.id}.key"
    write_private(path, key)
    set_queue = api.set_queue if queue in known else api.create_queue
    set_queue(queue, sealing_key=str(key.public))
    _say_key(key, path)
    terminal.say(
        f"secrets of runs of queue {queue} are sealed with it from now on; its workers open them with the private key: "
        f"copy {path} to them, into the folder that LAUNCH_SEALING_KEYS names, and keep older keys there",
        err=True,
    )


@keys_command.command("show", epilog="Example: launch-worker keys show --file /etc/launch/signing.key")
@_FILE
def show_command(file: Path | None) -> None:
    """Print the public part of your signing key."""
    path = file or Settings.from_env().signing_key or signing_key_file(os.environ)
    if path is None or not path.exists():
        raise InputError("you have no signing key; make one with: launch-worker keys new")
    _say_key(read_private(path, "sign"), path)


@keys_command.command("trust", epilog="Example: launch-worker keys trust sign:… --name ada")
@click.argument("key", metavar="sign:…")
@click.option("--name", required=True, metavar="NAME", help="A name for it, by which queues and people know it.")
@click.option("--server", is_flag=True, help="It is a server's: it says which user submitted a run.")
@JSON
@click.pass_obj
def trust_command(url: str | None, key: str, name: str, server: bool, as_json: bool) -> None:
    """Trust a signing key: workers that take signed runs only execute what it has signed."""
    made = Api(url).transport.trust_key(key, name=name, is_server=server)
    if as_json:
        terminal.echo_json(made.as_json())
    else:
        terminal.say(f"key {made.id} is trusted as {made.name}")


@keys_command.command("revoke", epilog="Example: launch-worker keys revoke ada")
@click.argument("key", metavar="NAME|ID")
@JSON
@click.pass_obj
def revoke_command(url: str | None, key: str, as_json: bool) -> None:
    """Revoke a signing key: what it has signed and has not started yet is refused. What runs goes on."""
    gone = Api(url).transport.revoke_key(key)
    if as_json:
        terminal.echo_json(gone.as_json())
    else:
        terminal.say(f"key {gone.id} ({gone.name}) is revoked")


def _say_key(key: PrivateKey, path: Path) -> None:
    terminal.say(f"key {key.public.id} in {path}; its public part:", err=True)
    terminal.say(str(key.public))
