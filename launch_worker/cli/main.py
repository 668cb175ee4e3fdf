"""Defines `launch-worker`, all but submitting; each command's module is imported when the command is called."""

from __future__ import annotations

import importlib
import sys

import click

from launch_worker.cli.errors import run_command
from launch_worker.errors import InputError

#: Each command and the module that has it, as `<name>_command`.
COMMANDS = {
    "allowances": "launch_worker.cli.allowances",
    "archive": "launch_worker.cli.archive",
    "audit": "launch_worker.cli.audit",
    "cancel": "launch_worker.cli.acts",
    "confirm": "launch_worker.cli.acts",
    "delete": "launch_worker.cli.acts",
    "dev": "launch_worker.cli.dev",
    "doctor": "launch_worker.cli.doctor",
    "explain": "launch_worker.cli.explain",
    "files": "launch_worker.cli.show",
    "groups": "launch_worker.cli.groups",
    "health": "launch_worker.cli.health",
    "login": "launch_worker.cli.login",
    "logout": "launch_worker.cli.login",
    "logs": "launch_worker.cli.logs",
    "metrics": "launch_worker.cli.usage",
    "pools": "launch_worker.cli.pools",
    "preempt": "launch_worker.cli.acts",
    "projects": "launch_worker.cli.projects",
    "queues": "launch_worker.cli.queues",
    "report": "launch_worker.cli.usage",
    "retry": "launch_worker.cli.acts",
    "runs": "launch_worker.cli.runs",
    "schedules": "launch_worker.cli.schedules",
    "schema": "launch_worker.cli.schema",
    "server": "launch_worker.cli.server",
    "show": "launch_worker.cli.show",
    "start": "launch_worker.cli.start",
    "status": "launch_worker.cli.status",
    "sweep": "launch_worker.cli.sweep",
    "tokens": "launch_worker.cli.tokens",
    "usage": "launch_worker.cli.usage",
    "users": "launch_worker.cli.users",
    "wait": "launch_worker.cli.acts",
    "whoami": "launch_worker.cli.login",
    "workers": "launch_worker.cli.workers",
}


#: Commands whose processes need Linux.
_ON_LINUX = frozenset({"dev", "server", "start"})

#: Help of the option `--api`.
API_HELP = "The Redis or server to use (default: LAUNCH_API_URL, LAUNCH_REDIS_URL, your dev, your login)."


class LazyGroup(click.Group):
    """A group that knows its commands by name only, until one is called or listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(COMMANDS[cmd_name]), f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        if not any(option.name == "api" for option in command.params):
            command.params.append(_api_option())
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"there is no command {args[0]!r}; use one of: {', '.join(sorted(COMMANDS))}")
        if args and args[0] in _ON_LINUX and sys.platform != "linux":
            raise InputError(
                f"{args[0]} works on Linux only; here use a server by: launch-worker login URL, or LAUNCH_API_URL"
            )
        return super().resolve_command(ctx, args)


def _api_option() -> click.Option:
    """The option `--api`, for behind a command's name too."""

    def remember(ctx: click.Context, option: click.Parameter, url: str | None) -> None:
        if url is not None:
            ctx.obj = url

    return click.Option(
        ["--api"],
        metavar="URL",
        expose_value=False,
        callback=remember,
        help=API_HELP,
    )


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: launch-worker runs --state running --queue gpu",
)
@click.option(
    "--api",
    metavar="URL",
    help="The Redis or server to use (default: LAUNCH_API_URL, LAUNCH_REDIS_URL, your dev, your login).",
)
@click.version_option(package_name="launch_worker")
@click.pass_context
def group(ctx: click.Context, api: str | None) -> None:
    """Look at runs, stop them, try them again.

    Workers are started with: celery -A launch_worker worker -Q QUEUE

    Exit codes: 0 done; 1 not possible in the run's state; 2 bad input; 69 Redis or server not reachable; 77 no login,
    or a role that is not enough.
    """
    ctx.obj = api


def main() -> None:
    run_command(group, program="launch-worker")
