"""Defines `start`: a worker by Prefect's command; the same process as `celery -A launch_worker worker`."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from launch_worker import terminal
from launch_worker.agent.config import OPTIONS, SELECTION, AgentConfig, keys_of
from launch_worker.agent.selection import Selection, parse_limit
from launch_worker.cli.submit_options import with_options

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


@click.command(epilog="Example: launch-worker start -q default -q gpu --limit 4")
@click.argument("work_queue", required=False)
@with_options(*(click.option(*option.declaration, option.name, **option.attributes) for option in OPTIONS))
@click.option("-n", "--hostname", metavar="NAME", help="The node's name, such as gpu@%h.")
@click.option(
    "--loglevel", type=click.Choice(LEVELS, case_sensitive=False), default="INFO", show_default=True, help="How much."
)
@click.pass_context
def start_command(ctx: click.Context, /, work_queue: str | None, **options: Any) -> int:
    """Start a worker (an agent): it takes runs from queues and executes them until it is stopped.

    WORK_QUEUE is deprecated; give queues with -q.
    """
    from launch_worker.settings import Settings
    from launch_worker.store.redis.safety import check_safe

    if work_queue is not None:
        options["queues"] = (*options["queues"], work_queue)
        terminal.say(
            terminal.styled(
                "Agents now support multiple work queues. Instead of passing a single argument, provide work queue "
                f"names with the `-q` or `--work-queue` flag: `launch-worker start -q {work_queue}`",
                colour="blue",
            )
        )
        terminal.say()
    # The worker checks the same, but only a second later.
    named: dict[str, Any] = {name: options[name] or () for name in SELECTION}
    if any(named.values()):
        Selection.parse(**named)
    chosen = {name: value or None for name, value in named.items()} | {"max_jobs": parse_limit(options["max_jobs"])}
    config = AgentConfig.load(keys_of(options | chosen), env=os.environ, file=options["agent_config"])
    if not any(named.values()):
        named = {name: getattr(config, name) or () for name in SELECTION}
        Selection.parse(**named)
    check_safe(Settings.from_env(redis_url=ctx.obj))
    environment = dict(os.environ)
    if ctx.obj is not None:
        environment["LAUNCH_REDIS_URL"] = ctx.obj
        environment.pop("CELERY_BROKER_URL", None)
    sys.stdout.flush()
    # -P: modules in the current folder are not imported.
    os.execve(sys.executable, [sys.executable, "-P", "-m", "celery", *worker_arguments(options)], environment)


def worker_arguments(options: dict[str, Any]) -> list[str]:
    """The arguments of `celery` for the options of `start`, each passed on exactly."""
    words = ["-A", "launch_worker", "worker"]
    for option in OPTIONS:
        value = options[option.name]
        if value is None or value == () or (value is False and not option.is_revocable):
            continue
        if option.name == "queues":
            words.append(f"--queues={','.join(value)}")
        elif option.name == "pool":
            # Celery looks for `--pool` itself, which names a pool of its own.
            words += ["-p", value] if value else []
        elif option.is_repeated:
            words += [f"{option.word}={entry}" for entry in value]
        elif value is False:
            words.append(option.opposite)
        else:
            words.append(option.word if value is True else f"{option.word}={value}")
    words += [f"--{name}={options[name]}" for name in ("hostname", "loglevel") if options[name] is not None]
    return words
