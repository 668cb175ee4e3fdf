"""Writes docs/reference/exit-codes.md: the codes of our errors, and what `--wait` makes of a run's end."""

from __future__ import annotations

from collections.abc import Iterator

from launch_worker.cli.errors import INTERRUPTED
from launch_worker.errors import LaunchError
from launch_worker.model.outcome import shell_exit_code
from launch_worker.model.states import RunState
from tools.reference.markdown import GENERATED, cell, table

#: Meaning of each code of the two programs themselves.
MEANING = {
    0: "done",
    1: "not possible now, as in the run's state; or `wait --timeout` ran out",
    2: "bad usage or input: nothing was written",
    69: "Redis, the server, or the archive's database cannot be reached, or may not be used",
    77: "the server wants a login, or more than yours may do",
    INTERRUPTED: "Ctrl-C: detached, the run goes on",
}

TOP = """# Exit codes

## Of `launch-submit` and `launch-worker`

The text on standard error is one sentence that says what was wrong and what to do; the code is for scripts.

"""

MIDDLE = """
Errors of the Python interface are the same ones: each is a class of `launch_worker.errors`, with the code as its `exit_code`.

"""

WAIT = """
## Of a run that somebody waits for

With `--wait` and `--follow`, and for `launch-worker wait` and `dev -- COMMAND`, the exit code is the job's own:

"""

BOTTOM = """
128 + n is the code of a job that signal n ended, so 143 also of one that ended on SIGTERM at its time limit. A Failed run never
gives 0, also when its job exited 0 after a time limit stopped it. Of several runs it is that of the worst.
What a job's exit code means for its retries is in [a job](jobs.md).
"""


def errors(of: type[LaunchError] = LaunchError) -> Iterator[type[LaunchError]]:
    """Each class of error that ends a command, the general ones first."""
    for kind in of.__subclasses__():
        if kind.__module__ == LaunchError.__module__:
            yield kind
            yield from errors(kind)


def page() -> str:
    """The whole page."""
    kinds = sorted(errors(), key=lambda kind: kind.exit_code)
    named = [(str(kind.exit_code), f"`{kind.__name__}`", cell((kind.__doc__ or "").split("\n\n")[0])) for kind in kinds]
    ends: list[tuple[str, RunState, int | None, str]] = [
        ("Finished", RunState.FINISHED, 0, ""),
        ("Failed, its job exited 3", RunState.FAILED, 3, ""),
        ("Failed, SIGSEGV ended its job", RunState.FAILED, None, "SIGSEGV"),
        ("Failed, never started", RunState.FAILED, None, ""),
        ("Killed", RunState.KILLED, None, "SIGTERM"),
        ("Crashed", RunState.CRASHED, None, ""),
    ]
    return "".join(
        [
            *(GENERATED, TOP),
            table(("code", "meaning"), [(str(number), meaning) for number, meaning in MEANING.items()]),
            *(MIDDLE, table(("code", "error", "meaning"), named), WAIT),
            table(
                ("the run", "code"),
                [(text, str(shell_exit_code(state, code, signal))) for text, state, code, signal in ends],
            ),
            BOTTOM,
        ]
    )
