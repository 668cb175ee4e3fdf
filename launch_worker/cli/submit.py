"""`launch-submit`: the producer. It imports only what the call uses, because a person waits for it."""

from __future__ import annotations

from typing import Any

import click

from launch_worker.cli.errors import run_command
from launch_worker.errors import InputError
from launch_worker.spec import PRIORITIES, parse_env


@click.command(
    context_settings={"allow_interspersed_args": False, "help_option_names": ["-h", "--help"]},
    epilog="Example: launch-submit -q gpu --name resnet --retries 2 --follow -- python train.py --lr 0.1",
)
@click.option("-q", "--queue", default="default", show_default=True, help="The queue that shall run it.")
@click.option("--name", default="", help="What the run is called (default: the program or script).")
@click.option("--project", default="", metavar="ENTITY/PROJECT", help="Where it belongs (default: LAUNCH_PROJECT).")
@click.option("--tag", "tags", multiple=True, help="A label; may be repeated.")
@click.option("-e", "--env", multiple=True, metavar="K=V", help="An environment variable; may be repeated.")
@click.option(
    "--env-from", multiple=True, metavar="NAME", help="A variable whose value the worker supplies (for secrets)."
)
@click.option(
    "--cwd", metavar="DIR", help="The job's folder on the worker (default: this one, where it exists), or in its code."
)
@click.option("--uri", default="", metavar="GIT_URL[@REF]", help="Run in this code: a branch, tag or commit of git.")
@click.option("--upload", metavar="DIR", help="Run in this code: a folder of this machine, sent to the worker.")
@click.option("--image", default="", metavar="IMG", help="Run in a container of this image; COMMAND are its arguments.")
@click.option("--entrypoint", metavar="PROGRAM", help="Instead of the image's own entry point.")
@click.option("--pull", type=click.Choice(["missing", "always", "never"]), help="When to pull the image.")
@click.option("--mount", multiple=True, metavar="SRC:DST[:ro]", help="A volume, or a folder that the queue allows.")
@click.option("--tmpfs", multiple=True, metavar="DST", help="A folder of the container that is kept in memory.")
@click.option("--network", metavar="NET", help="Of the container: bridge (the default) or none.")
@click.option("--user", metavar="USER[:GROUP]", help="In the container (default: the image's).")
@click.option("--read-only", is_flag=True, help="The container's root file system is not to be written to.")
@click.option("--pids-limit", type=int, metavar="N", help="Most processes in the container.")
@click.option("--shm-size", metavar="SIZE", help="Of /dev/shm in the container.")
@click.option("--no-init", is_flag=True, help="No init process in the container: the program itself is process 1.")
@click.option("--memory", metavar="SIZE", help="Memory limit of the container: 512M, 2G.")
@click.option("--cpus", type=float, metavar="X", help="Cores that the container may use.")
@click.option("--timeout", metavar="DUR", help="Wall limit: 90, 90s, 5m, 2h, 3d.")
@click.option("--start-timeout", metavar="DUR", default="30m", show_default=True, help="Limit to reach a process.")
@click.option("--stall-timeout", metavar="DUR", help="Limit without any output.")
@click.option("--grace", metavar="DUR", default="10s", show_default=True, help="From SIGTERM to SIGKILL.")
@click.option("--retries", type=click.IntRange(min=0), default=0, show_default=True, help="New attempts when it fails.")
@click.option("--retry-delay", metavar="DUR", default="0", show_default=True, help="Time before a new attempt.")
@click.option(
    "--retry-on", metavar="WHEN", default="failed,crashed", show_default=True, help="Ends that are tried again."
)
@click.option("--priority", type=click.Choice(list(PRIORITIES)), default="medium", show_default=True)
@click.option("--wait", is_flag=True, help="Wait for the end and exit with the job's code.")
@click.option("--follow", is_flag=True, help="Wait, and show the log as it comes.")
@click.option("--json", "as_json", is_flag=True, help="Print the run as one JSON object.")
@click.option("--quiet", is_flag=True, help="Print only the run id.")
@click.option("--api", metavar="URL", help="The Redis to use (default: LAUNCH_REDIS_URL).")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def submit_command(
    command: tuple[str, ...],
    env: tuple[str, ...],
    retry_on: str,
    entrypoint: str | None,
    pull: str | None,
    mount: tuple[str, ...],
    tmpfs: tuple[str, ...],
    network: str | None,
    user: str | None,
    read_only: bool,
    pids_limit: int | None,
    shm_size: str | None,
    no_init: bool,
    wait: bool,
    follow: bool,
    as_json: bool,
    quiet: bool,
    api: str | None,
    **options: Any,
) -> int:
    """Submit COMMAND to a queue and print its run.

    Exit codes: 0 done; 2 bad input; 69 Redis not reachable. With --wait or --follow the job's own (128+n for signal
    n), 143 when it was killed on request, 70 when its worker died, 130 when Ctrl-C detached.
    """
    if as_json and (follow or quiet):
        raise InputError("--json does not go with --follow or --quiet; use --wait --json")
    # After the parser, so that --help and usage errors need no redis.
    from launch_worker.api import Api, submit

    container = {
        "entrypoint": entrypoint,
        "pull": pull,
        "mounts": list(mount) or None,
        "tmpfs": list(tmpfs) or None,
        "network": network,
        "user": user,
        "read_only": read_only or None,
        "pids_limit": pids_limit,
        "shm_size": shm_size,
        "init": False if no_init else None,
    }
    connection = Api(api)
    run = submit(
        command,
        env=parse_env(env),
        retry_on=tuple(word.strip() for word in retry_on.lower().split(",") if word.strip()),
        container={name: value for name, value in container.items() if value is not None},
        api=connection,
        **options,
    )
    if quiet:
        click.echo(run.id)
    elif not as_json:
        click.echo(f"run {run.id} submitted to queue {options['queue']}", err=wait or follow)
    if run.queue_consumers == 0:
        click.echo(
            f"launch-submit: no worker consumes queue {options['queue']!r} now, the run waits; "
            f"start one with: celery -A launch_worker worker -Q {options['queue']}",
            err=True,
        )
    code = 0
    if wait or follow:
        from launch_worker.cli.following import follow as follow_run

        code = follow_run(run, logs=follow, quiet=quiet or as_json)
    if as_json:
        from launch_worker.cli.output import echo_json

        run.refresh()
        echo_json(run.as_json(history=True))
    return code


def main() -> None:
    run_command(submit_command, program="launch-submit")
