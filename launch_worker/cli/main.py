"""Defines `launch-worker`, all but submitting; each command's module is imported when the command is called."""

from __future__ import annotations

import importlib
import os
import sys

import click

from launch_worker.cli.errors import run_command
from launch_worker.cli.helping import near, with_whole_sentences, write_commands
from launch_worker.errors import InputError

#: Each command and the module that has it, as `<name>_command`.
COMMANDS = {
    "allowances": "launch_worker.cli.allowances",
    "archive": "launch_worker.cli.archive",
    "audit": "launch_worker.cli.audit",
    "cancel": "launch_worker.cli.acts",
    "channels": "launch_worker.cli.channels",
    "completion": "launch_worker.cli.completion",
    "config": "launch_worker.cli.config",
    "confirm": "launch_worker.cli.acts",
    "delete": "launch_worker.cli.acts",
    "dev": "launch_worker.cli.dev",
    "doctor": "launch_worker.cli.doctor",
    "explain": "launch_worker.cli.explain",
    "exporter": "launch_worker.cli.exporter",
    "files": "launch_worker.cli.files",
    "groups": "launch_worker.cli.groups",
    "health": "launch_worker.cli.health",
    "login": "launch_worker.cli.login",
    "logout": "launch_worker.cli.login",
    "keys": "launch_worker.cli.keys",
    "logs": "launch_worker.cli.logs",
    "metrics": "launch_worker.cli.usage",
    "pools": "launch_worker.cli.pools",
    "preempt": "launch_worker.cli.acts",
    "projects": "launch_worker.cli.projects",
    "queues": "launch_worker.cli.queues",
    "report": "launch_worker.cli.usage",
    "retry": "launch_worker.cli.acts",
    "rules": "launch_worker.cli.rules",
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


#: Commands by groups, each with some words, as `--help` shows them; the whole is 80 cells wide.
GROUPS = {
    "Runs": {
        "runs": "list, filter, watch",
        "show": "all of one, or why it waits",
        "logs": "what it printed",
        "explain": "why each worker leaves it",
        "files": "what it has kept",
        "metrics": "what was measured of it",
        "report": "asked beside used, advice",
        "wait": "until it ends, for its code",
        "cancel": "stop, or never start",
        "retry": "a new attempt of ended ones",
        "preempt": "stop, to run again later",
        "delete": "with all that is kept",
        "confirm": "that nothing of one is left",
        "sweep": "try parameters, as W&B",
        "schedules": "submit again and again",
        "usage": "what who used, in sums",
    },
    "Queues and workers": {
        "queues": "list, configure, pause",
        "pools": "queues with a common limit",
        "allowances": "limits of people, projects",
        "start": "a worker",
        "workers": "list, drain, upgrade",
        "health": "of the worker on this host",
    },
    "People": {
        "login": "to a server; logout, whoami",
        "users": "of the server",
        "groups": "of users",
        "projects": "who has a role in one",
        "tokens": "for programs",
        "keys": "sign runs, seal secrets",
        "audit": "who did what",
        "channels": "where notices go",
        "rules": "watch, and tell a channel",
    },
    "System": {
        "status": "one screen of the whole",
        "doctor": "what is wrong, what helps",
        "config": "what holds, and from where",
        "dev": "a whole system, here",
        "server": "API and pages",
        "archive": "keep what Redis forgets",
        "exporter": "metrics for Prometheus",
        "schema": "of a submission, as JSON",
        "completion": "of words, for your shell",
    },
}
#: Commands that are named beside another one.
_BESIDE = frozenset({"logout", "whoami"})

#: Habits of others: words that stand for a command of ours.
ALIASES = {
    "ls": "runs",
    "list": "runs",
    "ps": "runs",
    "log": "logs",
    "queue": "queues",
    "pool": "pools",
    "worker": "workers",
    "sweeps": "sweep",
    "schedule": "schedules",
}
#: Habits of others that would change something, or ask for something else: sentences that say our way.
HINTS = {
    **dict.fromkeys(("kill", "stop", "scancel", "rm"), "runs are stopped by: launch-worker cancel RUN"),
    **dict.fromkeys(("submit", "sbatch", "srun", "launch"), "runs are submitted by: launch-submit -- COMMAND"),
    **dict.fromkeys(("top", "watch"), "a screen that keeps itself new: launch-worker status --watch"),
    "run": "runs are listed by: launch-worker runs; submitted by: launch-submit -- COMMAND",
    "squeue": "who waits and who runs: launch-worker runs --pending, launch-worker runs --state running",
    "sinfo": "queues, workers and GPUs: launch-worker status",
    "scontrol": "all of a run: launch-worker show RUN; settings of a queue: launch-worker queues show QUEUE",
    "info": "all of a run: launch-worker show RUN; of the system: launch-worker status",
    "agent": "a worker is started by: launch-worker start -q QUEUE",
    "help": "the commands are listed by: launch-worker --help",
}

#: Commands whose processes need Linux.
_ON_LINUX = frozenset({"dev", "server", "start"})

#: Help of the option `--api`.
API_HELP = "Redis or server to use, in place of LAUNCH_API_URL and the like."


class LazyGroup(click.Group):
    """A group that knows its commands by name only, until one is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(COMMANDS[cmd_name]), f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        if not any(option.name == "api" for option in command.params):
            command.params.append(_api_option())
        with_whole_sentences(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args:
            args = [ALIASES.get(args[0], args[0]), *args[1:]]
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"there is no command {args[0]!r}{_meant(args[0])}", ctx)
        if args and args[0] in _ON_LINUX and sys.platform != "linux":
            raise InputError(
                f"{args[0]} works on Linux only; here use a server by: launch-worker login URL, or LAUNCH_API_URL"
            )
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write all in one screen of a terminal, or nearly."""
        formatter.write_usage(ctx.command_path, "[--api URL] [--version] COMMAND [ARGS]...")
        self.format_help_text(ctx, formatter)
        formatter.write_paragraph()
        self.format_commands(ctx, formatter)
        self.format_epilog(ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_commands(formatter, GROUPS, [name for name in self.list_commands(ctx) if name not in _BESIDE])


def _meant(word: str) -> str:
    """What somebody meant who typed this word: the end of a sentence."""
    if word in HINTS:
        return f"; {HINTS[word]}"
    return near(word, COMMANDS)


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
    epilog="Example: launch-worker runs --state running --queue gpu\nlaunch-worker COMMAND --help",
)
@click.option("--api", metavar="URL", help=API_HELP)
@click.version_option(package_name="launch_worker", help="Show the version.")
@click.pass_context
def group(ctx: click.Context, api: str | None) -> None:
    """Look at runs, and steer them. Exit codes: 0 done, 1 not possible now, 2 bad input, 69 Redis or server not
    reachable, 77 no login or no right.
    """
    ctx.obj = api


def main() -> None:
    if "_LAUNCH_WORKER_COMPLETE" in os.environ:
        from launch_worker.cli.completion import offer_words

        offer_words(GROUPS)
    run_command(group, program="launch-worker")
