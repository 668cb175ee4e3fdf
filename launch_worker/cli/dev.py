"""Defines `dev`: the whole system by one command, with no server installed."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from launch_worker import terminal
from launch_worker.cli.errors import INTERRUPTED
from launch_worker.cli.following import follow_to_the_end
from launch_worker.dev_folder import log_url_of, output_url_of
from launch_worker.humane import plural

if TYPE_CHECKING:
    from launch_worker.dev.folder import DataFolder
    from launch_worker.dev.keeper import Keeper


@click.command(
    context_settings={"allow_interspersed_args": False},
    epilog="Example: launch-worker dev -- python examples/train_iris.py --epochs 20",
)
@click.option("-q", "--queues", default="default,gpu", show_default=True, help="What the worker consumes.")
@click.option("-c", "--slots", type=click.IntRange(min=1), default=4, show_default=True, help="Jobs at once.")
@click.option("--no-web", is_flag=True, help="Leave the server and its page out.")
@click.option("--temporary", is_flag=True, help="Start with no runs, on free ports, and delete all data at the end.")
@click.option("--json", "as_json", is_flag=True, help="JSON for machines.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def dev_command(queues: str, slots: int, no_web: bool, temporary: bool, as_json: bool, command: tuple[str, ...]) -> int:
    """Start a private Redis, a worker, beat and the server with its page on loopback; they end with this command.

    Runs are kept in ~/.local/state/launch-worker/dev from one time to the next. Commands in other shells use it as long
    as it is up, unless LAUNCH_REDIS_URL says otherwise.

    Ctrl-C stops it; running jobs get SIGTERM and their grace, and a second Ctrl-C kills them.

    With COMMAND: run it as one job through all of that, show its log, and exit with its code. Ctrl-C cancels the job, a
    second one kills it.
    """
    from launch_worker.dev.folder import DataFolder
    from launch_worker.dev.keeper import Keeper
    from launch_worker.model.spec import RunSpec

    if command:
        RunSpec(tuple(command), queue=queues.split(",")[0])  # bad input is refused before anything is started
    folder = DataFolder.temporary() if temporary else DataFolder.of_user(os.environ)
    keeper = Keeper(folder, queues=queues, slots=slots, web=not no_web, waits=not command)
    interrupts = _Interrupts(keeper)
    try:
        facts = keeper.start(tell=_say, on_end=interrupts.end_waiting if command else lambda: None)
        if not command:
            _welcome(facts, folder, queues, has_web=not no_web, as_json=as_json)
            keeper.wait()
        return _run(command, facts["redis_url"], queue=queues.split(",")[0], as_json=as_json)
    except _PartEndedError:
        keeper.wait()
    except KeyboardInterrupt:
        _say("\nstopping")
        if command:
            keeper.kill()
        return INTERRUPTED if command else 0
    finally:
        interrupts.from_now_on_kill()
        keeper.stop(tell=_say)


def _run(command: tuple[str, ...], redis_url: str, *, queue: str, as_json: bool) -> int:
    """Submit the command, show its run, and return its exit code."""
    from launch_worker.api.client import Api, submit

    run = submit(command, queue=queue, api=Api(redis_url))
    code = follow_to_the_end(run, logs=not as_json, quiet=as_json)
    run.refresh()
    if as_json:
        terminal.echo_json(run.as_json(history=True))
    else:
        rows = [
            (terminal.state_cell(step.state.value), step.attempt or "", step.worker, step.reason)
            for step in run.transitions
        ]
        sys.stdout.flush()
        terminal.table((*("STATE", "ATTEMPT", "WORKER"), terminal.Column("REASON", 9, 24, falls=True)), rows)
    return code


class _PartEndedError(BaseException):
    """A part has ended by itself; `Keeper.wait` says which. Like KeyboardInterrupt, nothing else catches it."""


class _Interrupts:
    """The handler of Ctrl-C and SIGTERM: the first one begins the stop, later ones kill parts that do not end."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._kills = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._interrupt)
        signal.signal(signal.SIGUSR1, self._end)

    def from_now_on_kill(self) -> None:
        self._kills = True
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._interrupt)

    def end_waiting(self) -> None:
        """Have the main thread raise _PartEndedError, whatever it does; from another thread."""
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if not self._kills:
            self._kills = True
            raise KeyboardInterrupt
        # Not by click: the main thread may be writing at this moment.
        os.write(2, b"\nkilling\n")
        self._keeper.kill()

    def _end(self, number: int, frame: FrameType | None) -> NoReturn:
        raise _PartEndedError


def _say(sentence: str) -> None:
    for line in sentence.split("\n"):
        terminal.say(line, err=True)


def _welcome(facts: dict[str, Any], folder: DataFolder, queues: str, *, has_web: bool, as_json: bool) -> None:
    redis_url, server_url = facts["redis_url"], facts["server_url"]
    if as_json:
        kept = None if folder.is_temporary else str(folder.path)
        shown = {"redis_url": redis_url, "server_url": server_url or None, "queues": queues.split(","), "data": kept}
        terminal.echo_json(shown)
        return
    terminal.say("launch_worker is up. In another shell:")
    terminal.say()
    if folder.is_temporary:
        terminal.say(f"  export LAUNCH_REDIS_URL={redis_url}")
        terminal.say(f"  export LAUNCH_LOG_URL={shlex.quote(log_url_of(folder.path))}")
        terminal.say(f"  export LAUNCH_OUTPUT_URL={shlex.quote(output_url_of(folder.path))}")
    elif os.environ.get("LAUNCH_REDIS_URL"):
        terminal.say("  unset LAUNCH_REDIS_URL    # as long as it is set, commands use what it names, and not this")
    terminal.say("  launch-submit --follow -- python3 -c 'print(\"hello\")'")
    terminal.say()
    terminal.say(f"queues    {queues}")
    if server_url:
        terminal.say(f"web page  {server_url}")
    elif has_web:
        terminal.say("web page  needs: pip install 'launch_worker[server]'")
    if folder.is_temporary:
        terminal.say("data      is deleted at the end")
    else:
        terminal.say(f"data      {folder.path}, with {_known(facts['counts'])}")
    terminal.say()
    terminal.say("Ctrl-C stops it all.")


def _known(counts: dict[str, int]) -> str:
    total, waiting = sum(counts.values()), counts.get("Pending", 0)
    if not total:
        return "no runs yet"
    return f"{plural(total, 'run')} from before" + (f", {waiting} of them to be done" if waiting else "")
