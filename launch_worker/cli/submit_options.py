"""The options of `launch-submit`. None, or nothing, is "not given": then the queue's defaults apply, then RunSpec's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from launch_worker.model.spec import PRIORITIES, parse_env
from launch_worker.submission.array import parse_values

_LABELS = (
    click.option("-q", "--queue", show_default="default", help="The queue that shall run it."),
    click.option("--name", help="What the run is called (default: the program or script)."),
    click.option("--project", metavar="ENTITY/PROJECT", help="Where it belongs (default: LAUNCH_PROJECT)."),
    click.option("--tag", "tags", multiple=True, help="A label; may be repeated."),
    click.option("--priority", type=click.Choice(list(PRIORITIES)), show_default="medium"),
)
_ENVIRONMENT = (
    click.option("-e", "--env", multiple=True, metavar="K=V", help="An environment variable; may be repeated."),
    click.option(
        "--env-from", multiple=True, metavar="NAME", help="A variable whose value the worker supplies (for secrets)."
    ),
    click.option(
        "--set",
        "values",
        multiple=True,
        metavar="K=V",
        help="A value for the queue's template variables and for ${K}, V as JSON or text; may be repeated.",
    ),
    click.option(
        "--config",
        multiple=True,
        metavar="K=V",
        help="A hyperparameter, for the job and for lists of runs, V as JSON or text; may be repeated.",
    ),
    click.option(
        "--cwd",
        metavar="DIR",
        help="The job's folder on the worker (default: this one, where it exists), or in its code.",
    ),
    click.option("--uri", metavar="GIT_URL[@REF]", help="Run in this code: a branch, tag or commit of git."),
    click.option("--upload", metavar="DIR", help="Run in this code: a folder of this machine, sent to the worker."),
)
_CONTAINER = (
    click.option("--image", metavar="IMG", help="Run in a container of this image; COMMAND are its arguments."),
    click.option("--entrypoint", metavar="PROGRAM", help="Instead of the image's own entry point."),
    click.option("--pull", type=click.Choice(["missing", "always", "never"]), help="When to pull the image."),
    click.option("--mount", multiple=True, metavar="SRC:DST[:ro]", help="A volume, or a folder that the queue allows."),
    click.option("--tmpfs", multiple=True, metavar="DST", help="A folder of the container that is kept in memory."),
    click.option("--network", metavar="NET", help="Of the container: bridge (the default) or none."),
    click.option("--user", metavar="USER[:GROUP]", help="In the container (default: the image's)."),
    click.option("--read-only", is_flag=True, help="The container's root file system is not to be written to."),
    click.option("--pids-limit", type=int, metavar="N", help="Most processes in the container."),
    click.option("--shm-size", metavar="SIZE", help="Of /dev/shm in the container."),
    click.option("--no-init", is_flag=True, help="No init process in the container: the program itself is process 1."),
)
_NEEDS = (
    click.option("--gpus", type=click.IntRange(min=0), metavar="N", help="Whole GPUs, for it alone."),
    click.option("--memory", metavar="SIZE", help="Memory that it needs, and a container's limit: 512M, 2G."),
    click.option("--cpus", type=float, metavar="X", help="Cores that it needs, and a container may use."),
)
_LIMITS = (
    click.option("--timeout", metavar="DUR", help="Wall limit: 90, 90s, 5m, 2h, 3d."),
    click.option("--start-timeout", metavar="DUR", show_default="30m", help="Limit to reach a process."),
    click.option(
        "--stall-timeout", metavar="DUR", help="Limit without any sign of life: output, or a word to the worker."
    ),
    click.option("--grace", metavar="DUR", show_default="10s", help="From SIGTERM to SIGKILL."),
    click.option("--retries", type=click.IntRange(min=0), show_default="0", help="New attempts when it fails."),
    click.option("--retry-delay", metavar="DUR", show_default="0", help="Time before each new attempt (no back-off)."),
    click.option("--retry-on", metavar="WHEN", show_default="failed,crashed", help="Ends that are tried again."),
    click.option(
        "--max-preemptions", type=click.IntRange(min=0), metavar="N", show_default="5", help="Then it Failed."
    ),
    click.option(
        "--preempt-exit-code",
        type=click.IntRange(1, 255),
        metavar="N",
        show_default="85",
        help="By which the job says that it was preempted, and is to run again.",
    ),
)
_WHEN = (
    click.option("--at", metavar="TIME", help="Not before: 2030-01-31T14:30, with Z or +02:00, or 14:30 for the next."),
    click.option("--delay", metavar="DUR", help="Not before so long from now."),
    click.option("--expires", metavar="DUR", help="Killed if it has not started so long after that."),
    click.option(
        "--after",
        multiple=True,
        metavar="RUN[:ok|any|failed]",
        help="Not before this run has ended so (default: ok, with exit code 0); may be repeated.",
    ),
    click.option("--concurrency-key", metavar="KEY", help="Of the runs with the same key only some run at once."),
    click.option(
        "--limit-key",
        type=click.IntRange(min=1),
        metavar="N",
        show_default="1",
        help="How many with the same --concurrency-key.",
    ),
)
_MANY = (
    click.option(
        "--array",
        metavar="LIST[%N]",
        help="A run for each index (LAUNCH_ARRAY_INDEX): 0-99, 1,3,5-7, 0-10:2, N at once.",
    ),
    click.option(
        "--from-file",
        metavar="FILE",
        help="Runs from a file, a JSON object a line with keys as these options; - is standard input.",
    ),
    click.option("--strict", is_flag=True, help="Refuse a queue that is not known yet."),
)
_ONCE = (
    click.option(
        "--unique",
        metavar="KEY",
        help="Once only: if you have submitted a run with this key, that one is named and nothing is changed.",
    ),
    click.option("--id", metavar="ID", help="The run's id, for the same: 15 characters, as all ids."),
)
_CRON = (
    click.option("--cron", metavar="CRON", help="Again and again: 'MINUTE HOUR DAY MONTH WEEKDAY', or @daily."),
    click.option("--cron-name", metavar="NAME", help="What the schedule is called (default: as the run)."),
    click.option("--timezone", metavar="ZONE", help="Of --cron, as Europe/Berlin (default: this machine's)."),
    click.option(
        "--missed", type=click.Choice(["skip", "once"]), show_default="skip", help="Times that nobody was there for."
    ),
    click.option(
        "--overlap",
        type=click.Choice(["allow", "skip", "queue-one"]),
        show_default="allow",
        help="Times that come while the last run has not ended: run beside it, leave them out, or run one after it.",
    ),
)

#: What of a run can be said, in the order of --help.
RUN_OPTIONS = (*_LABELS, *_ENVIRONMENT, *_CONTAINER, *_NEEDS, *_LIMITS)
SUBMIT_OPTIONS = (*RUN_OPTIONS, *_WHEN, *_MANY, *_ONCE, *_CRON)
#: Those that `launch-worker schedules create` has beside its own.
SCHEDULE_OPTIONS = (*RUN_OPTIONS, *_WHEN[2:3], *_WHEN[4:])


def with_options(options: tuple[Callable[[Any], Any], ...]) -> Callable[[Any], Any]:
    """A decorator that adds all of these, in this order."""

    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def given_options(command: tuple[str, ...], options: Mapping[str, Any]) -> dict[str, Any]:
    """Those that the user really gave, as `bulk.read_options` takes them."""
    # By identity: 0 and '' are given.
    given = {name: value for name, value in options.items() if value is not None and value is not False and value != ()}
    if command:
        given["command"] = command
    if "env" in given:
        given["env"] = parse_env(given["env"])
    if "values" in given:
        given["values"] = parse_values(given["values"])
    if "config" in given:
        given["config"] = parse_values(given["config"], option="--config")
    return given
