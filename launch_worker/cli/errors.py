"""Ends a command: an error becomes one sentence on standard error, and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from io import TextIOWrapper

import click

from launch_worker.cli.helping import Formatter, say_usage
from launch_worker.errors import LaunchError
from launch_worker.untrusted.text import clean

INTERRUPTED = 130


def run_command(command: click.Command, *, program: str) -> None:
    """Run a click command as the program's main; never returns, never shows a traceback for what a user did."""
    if isinstance(sys.stdout, TextIOWrapper):
        # A letter that the terminal's encoding lacks is shown as a number.
        sys.stdout.reconfigure(errors="backslashreplace")
    click.Context.formatter_class = Formatter
    try:
        code = command.main(prog_name=program, standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        # click's message may repeat an argument, and has line breaks of its own.
        vars(error)["message"] = "\n".join(map(clean, error.message.split("\n")))
        if isinstance(error, click.UsageError) and not error.message.startswith("Usage:"):
            say_usage(error, program)
        else:
            # The help, for a call without any word; or a file that cannot be read.
            error.show()
        code = 2
    except LaunchError as error:
        say_problem(str(error), program=program)
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) went away: nothing more can be said, and the interpreter must not try at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        say_problem(error.strerror or str(error), program=program)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def say_problem(sentence: str, *, program: str = "launch-worker") -> None:
    """Say a sentence on standard error, in lines as wide as the terminal, and more lines as they are."""
    # Not at the top: a `launch-submit` that is well has nothing to say.
    from launch_worker import terminal

    sentence, *more = sentence.split("\n")
    terminal.tell(f"{program}: {sentence}", err=True)
    for line in more:
        # Indented, so that no text of others looks like a line of ours.
        terminal.say("  ", line.removeprefix("  "), err=True)


def each(run_ids: tuple[str, ...], act: Callable[[str], None], *, program: str = "launch-worker") -> int:
    """Do something for each run; report failures and go on. Returns the exit code."""
    worst = 0
    for run_id in run_ids:
        try:
            act(run_id)
        except LaunchError as error:
            say_problem(str(error), program=program)
            worst = max(worst, error.exit_code)
            if error.exit_code == 69:
                break
    return worst
