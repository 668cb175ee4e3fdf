"""`queues`: which queues there are, and what an admin configures of one."""

from __future__ import annotations

import json
from typing import Any

import click

from launch_worker.api import Api
from launch_worker.cli import output
from launch_worker.errors import InputError
from launch_worker.queue_config import RESOURCES, QueueConfig, parse_settings
from launch_worker.spec import parse_env

_NAME = click.argument("name")
_JSON = click.option("--json", "as_json", is_flag=True, help="JSON for machines.")
_SETTINGS = (
    click.option("--resource", type=click.Choice(RESOURCES), help="What runs its jobs (default: as each run asks)."),
    click.option(
        "--container",
        multiple=True,
        metavar="SETTING=VALUE",
        help="A setting of its containers, VALUE as JSON or text, nothing to take it away; may be repeated.",
    ),
    click.option("--description", help="For people."),
)


def _settings(command: Any) -> Any:
    for option in reversed(_SETTINGS):
        command = option(command)
    return command


@click.group(invoke_without_command=True, epilog="Example: launch-worker queues set gpu --resource container")
@_JSON
@click.pass_context
def queues_command(ctx: click.Context, as_json: bool) -> None:
    """List the queues, and configure them. A queue needs no configuration: it is made by the first run."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_command, as_json=as_json)


@queues_command.command("list", epilog="Example: launch-worker queues list --json")
@_JSON
@click.pass_obj
def list_command(url: str | None, as_json: bool) -> None:
    """List the queues."""
    api = Api(url)
    rows = [_shown(api, name) | {"waiting": waiting} for name, waiting in api.store.queues().items()]
    if as_json:
        for row in rows:
            output.echo_json(row)
        return
    if not rows:
        click.echo("no queues", err=True)
        return
    shown = [(row["name"], row["waiting"], row["workers"], row["resource"], row["description"]) for row in rows]
    output.table(("QUEUE", "WAITING", "WORKERS", "RESOURCE", "DESCRIPTION"), shown)


@queues_command.command("show", epilog="Example: launch-worker queues show gpu --json")
@_NAME
@_JSON
@click.pass_obj
def show_command(url: str | None, name: str, as_json: bool) -> None:
    """Show a queue's configuration."""
    api = Api(url)
    if name not in api.store.queues():
        raise InputError(f"there is no queue {name!r}; list them with: launch-worker queues")
    shown = _shown(api, name)
    if as_json:
        output.echo_json(shown)
        return
    for key in ("name", "resource", "workers", "description"):
        click.echo(f"{key:<20} {output.clean(shown[key] if shown[key] is not None else '')}")
    for key, value in shown["container"].items():
        click.echo(f"{'container':<20} {output.clean(key)}={output.clean(json.dumps(value))}")


@queues_command.command(
    "create", epilog="Example: launch-worker queues create sim --resource container --container image=sim:3"
)
@_NAME
@_settings
@_JSON
@click.pass_obj
def create_command(url: str | None, /, name: str, as_json: bool, **settings: Any) -> None:
    """Make a queue with a configuration; refused where it has one already."""
    api = Api(url)
    if api.store.queue_config(name):
        raise InputError(f"queue {name!r} is configured already; change it with: launch-worker queues set {name}")
    _configure(api, name, QueueConfig(), settings, as_json=as_json)


@queues_command.command("set", epilog="Example: launch-worker queues set gpu --container 'allow_mounts=[\"/data\"]'")
@_NAME
@_settings
@_JSON
@click.pass_obj
def set_command(url: str | None, /, name: str, as_json: bool, **settings: Any) -> None:
    """Change some of a queue's configuration. Runs that are running keep what they have."""
    api = Api(url)
    _configure(api, name, QueueConfig.from_json(api.store.queue_config(name)), settings, as_json=as_json)


@queues_command.command("delete", epilog="Example: launch-worker queues delete sim")
@_NAME
@click.pass_obj
def delete_command(url: str | None, name: str) -> None:
    """Take a queue's configuration away. Its runs stay."""
    api = Api(url)
    if not api.store.queue_config(name):
        raise InputError(f"queue {name!r} has no configuration; nothing was changed")
    api.store.configure_queue(name, None)
    click.echo(f"queue {name} has no configuration any more")


def _configure(api: Api, name: str, before: QueueConfig, settings: dict[str, Any], *, as_json: bool) -> None:
    container = parse_settings(parse_env(settings.pop("container")))
    api.configure_queue(name, before.changed(container=container, **settings))
    if as_json:
        output.echo_json(_shown(api, name))
    else:
        click.echo(f"queue {name} is configured")


def _shown(api: Api, name: str) -> dict[str, Any]:
    config = QueueConfig.from_json(api.store.queue_config(name))
    return {
        "name": name,
        "resource": config.resource or None,
        "workers": api.store.consumers(name),
        "description": config.description or None,
        "container": config.container,
    }
