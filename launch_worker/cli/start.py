"""`start`: a worker by Prefect's command; the same process as `celery -A launch_worker worker`."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from launch_worker import terminal

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


@click.command(epilog="Example: launch-worker start -q default -q gpu --limit 4")
@click.argument("work_queue", required=False)
@click.option(
    *("-q", "--queue", "--work-queue", "work_queues"),
    multiple=True,
    metavar="NAME",
    help="A queue to take runs from; may be repeated.",
)
@click.option(
    *("-m", "--match"),
    multiple=True,
    metavar="PREFIX",
    help="All queues whose names begin so (dev-), those made later too; may be repeated.",
)
@click.option("-p", "--pool", metavar="NAME", help="All queues of this pool, by their rank in it; with -q only those.")
@click.option("-t", "--tag", multiple=True, metavar="TAG", help="DEPRECATED: a queue that is named for the tags.")
@click.option(
    *("-l", "--limit"),
    metavar="N",
    help="Runs at once; 0 takes nothing, -1 has no limit (default: worker_concurrency, else one for each core).",
)
@click.option("--run-once", is_flag=True, help="Take what is due now, wait for its end, and exit.")
@click.option(
    "--prefetch-seconds", metavar="N", help="Claim and prepare scheduled runs so long before they start (default: 0)."
)
@click.option("--hide-welcome", is_flag=True, help="Say nothing at the start.")
@click.option("--gpus", metavar="auto|N|0,1,3|none", help="The GPUs that runs may have (default: auto).")
@click.option("--cpus", metavar="X", help="The cores that runs may have (default: all).")
@click.option("--memory", metavar="SIZE", help="The memory that runs may have (default: all).")
@click.option("--strict", is_flag=True, help="Refuse to start for queues or pools that are not there.")
@click.option("--drain-timeout", metavar="DUR", help="How long jobs may go on after SIGTERM (default: no limit).")
@click.option(
    "--detach-on-exit", is_flag=True, default=None, help="On SIGTERM leave jobs to the next worker of this name."
)
@click.option(
    "--quarantine-after",
    metavar="N",
    help="Take no runs after so many starts failed through the machine (default: 1; 0: never).",
)
@click.option("--agent-config", metavar="FILE", help="A YAML file with what is not said here (LAUNCH_AGENT_CONFIG).")
@click.option("--max-schedulers", metavar="N", help="Runs at once that make other runs, beside the limit (default: 1).")
@click.option("--secure-mode/--no-secure-mode", default=None, help="Refuse runs that reach this machine (default: no).")
@click.option("--stopped-run-timeout", metavar="DUR", help="The longest grace of a stopped run.")
@click.option("--entity", metavar="NAME", help="Whose worker this is, for people.")
@click.option("--verbosity", metavar="0|1|2", help="Print the status when it changes (1), internal messages too (2).")
@click.option("-n", "--hostname", metavar="NAME", help="The node's name, such as gpu@%h.")
@click.option(
    "--loglevel", type=click.Choice(LEVELS, case_sensitive=False), default="INFO", show_default=True, help="How much."
)
@click.pass_context
def start_command(ctx: click.Context, /, work_queue: str | None, **options: Any) -> int:
    """Start a worker (an agent): it takes runs from queues and executes them until it is stopped.

    WORK_QUEUE is deprecated; give queues with -q.
    """
    from launch_worker.agent.config import SELECTION, AgentConfig
    from launch_worker.agent.selection import Selection, parse_limit
    from launch_worker.errors import InputError
    from launch_worker.model.units import parse_duration
    from launch_worker.settings import Settings
    from launch_worker.store.redis.safety import check_safe

    if work_queue is not None:
        options["work_queues"] = (*options["work_queues"], work_queue)
        terminal.say(
            terminal.styled(
                "Agents now support multiple work queues. Instead of passing a single argument, provide work queue "
                f"names with the `-q` or `--work-queue` flag: `launch-worker start -q {work_queue}`",
                colour="blue",
            )
        )
        terminal.say()
    # The worker checks the same, but takes a second to begin.
    named: dict[str, Any] = {
        "queues": options["work_queues"],
        "match": options["match"],
        "pool": options["pool"],
        "tags": options["tag"],
    }
    if any(named.values()):
        Selection.parse(**named)
    limit = parse_limit(options["limit"])
    said = {name: value or None for name, value in named.items()} | {"max_jobs": limit}
    said |= {name: options[name] for name in ("max_schedulers", "verbosity", "stopped_run_timeout", "entity")}
    config = AgentConfig.load(said, env=os.environ, file=options["agent_config"])
    if not any(named.values()):
        named = {name: getattr(config, name) or () for name in SELECTION}
        Selection.parse(**named)
    for name in ("prefetch_seconds", "drain_timeout"):
        if options[name] is not None:
            parse_duration(options[name], what=_word(name))
    if options["quarantine_after"] is not None and not options["quarantine_after"].isdecimal():
        raise InputError(f"--quarantine-after {options['quarantine_after']!r} is not a whole number from 0 on")
    check_safe(Settings.from_env(redis_url=ctx.obj))
    environment = dict(os.environ)
    if ctx.obj is not None:
        environment["LAUNCH_REDIS_URL"] = ctx.obj
        environment.pop("CELERY_BROKER_URL", None)
    sys.stdout.flush()
    # -P: what lies in the current folder is not imported.
    os.execve(sys.executable, [sys.executable, "-P", "-m", "celery", *worker_arguments(options)], environment)


def worker_arguments(options: dict[str, Any]) -> list[str]:
    """What follows `celery` for the options of `start`, each passed on exactly."""
    words = ["-A", "launch_worker", "worker"]
    if options["work_queues"]:
        words.append(f"--queues={','.join(options['work_queues'])}")
    for name in ("match", "tag"):
        words += [f"--{name}={value}" for value in options[name]]
    for name in ("run_once", "hide_welcome", "strict", "detach_on_exit"):
        words += [_word(name)] if options[name] else []
    if options["secure_mode"] is not None:
        words += ["--secure-mode" if options["secure_mode"] else "--no-secure-mode"]
    # Celery looks at --pool itself, for the names of its own.
    words += ["-p", options["pool"]] if options["pool"] else []
    for name in (
        *("limit", "prefetch_seconds", "gpus", "cpus", "memory"),
        *("drain_timeout", "quarantine_after", "agent_config", "max_schedulers", "stopped_run_timeout"),
        *("entity", "verbosity", "hostname", "loglevel"),
    ):
        words += [f"{_word(name)}={options[name]}"] if options[name] is not None else []
    return words


def _word(name: str) -> str:
    return f"--{name.replace('_', '-')}"
