"""`dev`: the whole system by one command, with no server installed."""

from __future__ import annotations

import signal
import sys
import time
from types import FrameType

import click

from launch_worker.cli import output
from launch_worker.cli.following import follow


@click.command(
    context_settings={"allow_interspersed_args": False},
    epilog="Example: launch-worker dev -- python examples/train_iris.py --epochs 20",
)
@click.option("-q", "--queues", default="default,gpu", show_default=True, help="What the worker consumes.")
@click.option("-c", "--slots", type=click.IntRange(min=1), default=4, show_default=True, help="Jobs at once.")
@click.option("--no-web", is_flag=True, help="Leave the web page out.")
@click.option("--json", "as_json", is_flag=True, help="JSON for machines.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def dev_command(queues: str, slots: int, no_web: bool, as_json: bool, command: tuple[str, ...]) -> int:
    """Start a private Redis, a worker, beat and the web page on loopback; Ctrl-C stops them all.

    With COMMAND: run it as one job through all of that, show its log, and exit with its code.
    """
    from launch_worker.api import submit
    from launch_worker.dev.stack import Stack
    from launch_worker.spec import RunSpec

    if command:
        RunSpec(tuple(command), queue=queues.split(",")[0])  # bad input is refused before anything is started
    signal.signal(signal.SIGTERM, _interrupt)
    stack = Stack(queues=queues, slots=slots, web=not no_web)
    try:
        api = stack.start()
        if not command:
            _welcome(stack.redis.url, stack.web_port, queues, as_json=as_json)
            while True:
                stack.check()
                time.sleep(0.5)
        run = submit(command, queue=queues.split(",")[0], api=api)
        code = follow(run, logs=not as_json, quiet=as_json)
        run.refresh()
        if as_json:
            output.echo_json(run.as_json(history=True))
        else:
            rows = [(step.state.value, step.attempt or "", step.worker, step.reason) for step in run.transitions]
            sys.stdout.flush()
            output.table(("STATE", "ATTEMPT", "WORKER", "REASON"), rows)
        return code
    except KeyboardInterrupt:
        click.echo("\nstopping", err=True)
        return 0 if not command else 130
    finally:
        # A second Ctrl-C must not leave half of the stack behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        stack.stop()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _welcome(redis_url: str, web_port: int, queues: str, *, as_json: bool) -> None:
    if as_json:
        output.echo_json({"redis_url": redis_url, "web_port": web_port or None, "queues": queues.split(",")})
        return
    click.echo("launch_worker is up. In another shell:\n")
    click.echo(f"  export LAUNCH_REDIS_URL={redis_url}")
    click.echo("  launch-submit --follow -- python3 -c 'print(\"hello\")'\n")
    click.echo(f"queues    {queues}")
    if web_port:
        click.echo(f"web page  http://127.0.0.1:{web_port}")
    click.echo("\nCtrl-C stops it all.")
