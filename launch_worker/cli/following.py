"""Waits for a run in front of a person: its log on standard output, its states on standard error."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Sequence
from types import FrameType

from launch_worker import humane, terminal
from launch_worker.api.client import Run
from launch_worker.cli.errors import INTERRUPTED
from launch_worker.cli.progress import Line
from launch_worker.errors import LaunchError, RefusedError
from launch_worker.model.log_pieces import Log
from launch_worker.model.states import RunState

#: Seconds after a Ctrl-C within which a second one means "cancel the run".
_SECOND_CTRL_C_S = 2.0


class _Interrupts:
    """Counts Ctrl-C: the first detaches, a second one soon after cancels."""

    def __init__(self) -> None:
        self.count = 0
        signal.signal(signal.SIGINT, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count <= 2:
            raise KeyboardInterrupt


def follow(run: Run, *, logs: bool, quiet: bool) -> int:
    """Block until the run has ended; returns the exit code of the contract.

    Ctrl-C detaches (130, the run goes on), a second one cancels the run and waits for its end.
    """
    interrupts = _Interrupts()
    try:
        return _follow(run, logs=logs, quiet=quiet)
    except KeyboardInterrupt:
        pass
    try:
        terminal.say(err=True)
        terminal.say(f"detached; run {run.id} goes on. Ctrl-C again within 2 s cancels it.", err=True)
        time.sleep(_SECOND_CTRL_C_S)
        terminal.say(f"come back with: launch-worker logs -f {run.id}", err=True)
        return INTERRUPTED
    except KeyboardInterrupt:
        interrupts.count = 2
    terminal.say(f"cancelling run {run.id}", err=True)
    if not run.state.is_final:
        run.cancel()
    return _follow(run, logs=False, quiet=quiet)


def follow_to_the_end(run: Run, *, logs: bool, quiet: bool) -> int:
    """As `follow`, for a run that does not outlive this command.

    Ctrl-C (SIGTERM, too) cancels it, a second one kills it, a third one raises KeyboardInterrupt.
    """
    count = 0

    def cancel(words: str, grace_s: float | None) -> None:
        terminal.say(err=True)
        terminal.say(words, err=True)
        with contextlib.suppress(LaunchError):
            run.cancel(grace_s=grace_s)

    def interrupted(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count > 2:
            raise KeyboardInterrupt
        steps = (
            (f"cancelling run {run.id}, and waiting for its end; Ctrl-C again kills it", None),
            (f"killing run {run.id}", 0.0),
        )
        # In a thread of its own: the main thread may be writing, or waiting for Redis.
        threading.Thread(target=cancel, args=steps[count - 1], daemon=True).start()

    for word in (signal.SIGINT, signal.SIGTERM):
        signal.signal(word, interrupted)
    return _follow(run, logs=logs, quiet=quiet)


def wait_for_all(runs: Sequence[Run], *, quiet: bool) -> int:
    """Block until all have ended; returns the first exit code that is not 0. Ctrl-C as in `follow`, for all of them."""
    interrupts = _Interrupts()
    try:
        if not quiet:
            terminal.say(f"waiting for {humane.plural(len(runs), 'run')}", err=True)
        return _wait_for_all(runs, quiet=quiet)
    except KeyboardInterrupt:
        pass
    try:
        terminal.say(err=True)
        terminal.say(f"detached; the {len(runs)} runs go on. Ctrl-C again within 2 s cancels them.", err=True)
        time.sleep(_SECOND_CTRL_C_S)
        terminal.say("come back with: launch-worker wait RUN…", err=True)
        return INTERRUPTED
    except KeyboardInterrupt:
        interrupts.count = 2
    terminal.say(f"cancelling {len(runs)} runs", err=True)
    for run in runs:
        # A run that ended meanwhile needs no cancelling.
        with contextlib.suppress(RefusedError):
            run.cancel()
    return _wait_for_all(runs, quiet=quiet)


def _wait_for_all(runs: Sequence[Run], *, quiet: bool) -> int:
    first = 0
    with Line(is_wanted=not quiet) as line:
        for done, run in enumerate(runs, 1):
            run.wait()
            first = first or run.shell_exit_code()
            if not quiet:
                record = run.record
                with line.above():
                    _say_state(run, record.state, f": {record.reason}" if record.reason else "")
            line.count("waiting", done, len(runs))
    return first


def _follow(run: Run, *, logs: bool, quiet: bool) -> int:
    last: RunState | None = None
    with Line(is_wanted=not quiet) as line, terminal.JobOutput() as shown:
        missing = _Missing(run.id, quiet=quiet)
        line.tick(_Waits(run))
        for state, data in run.follow(logs=logs, on_missing=missing.note):
            if data:
                with line.above(ends_line=data.endswith(b"\n")):
                    shown.write(data)
            if state is not None and state is not last:
                last = state
                if not quiet and not state.is_final:
                    record = run.record
                    where = f" on {record.worker} (attempt {record.attempt})" if state is RunState.RUNNING else ""
                    with line.above():
                        _say_state(run, state, where, f": {record.reason}" if record.reason else "")
        missing.say()
    code = run.shell_exit_code()
    if not quiet:
        record = run.record
        _say_state(run, record.state, f": {record.reason}" if record.reason else "")
    return code


def show_output(run: Run, shown: terminal.JobOutput, *, attempt: int | None, after: Log | None = None) -> None:
    """Print what a run prints, until it has ended."""
    missing = _Missing(run.id, quiet=False)
    for _, data in run.follow(attempt=attempt, after=after, on_missing=missing.note):
        shown.write(data)
    missing.say()


def say_missing(count: int, run_id: str) -> None:
    """Say how much of a followed output is not in Redis."""
    if count:
        terminal.say(
            f"… {count:,} bytes of output before this are not in Redis; for what is kept of them see: "
            f"launch-worker logs {run_id}",
            err=True,
        )


class _Missing:
    """Counts the missing bytes of a followed output: the first gap is reported at once, the others at the end."""

    def __init__(self, run_id: str, *, quiet: bool) -> None:
        self._run_id = run_id
        self._quiet = quiet
        self._is_said = False
        self._count = 0

    def note(self, count: int) -> None:
        self._count += count
        if not self._is_said:
            self._is_said = True
            self.say()

    def say(self) -> None:
        count, self._count = self._count, 0
        if not self._quiet:
            say_missing(count, self._run_id)


class _Waits:
    """Says for what a run waits, or which part of its start goes on, and for how long; '' while its job runs."""

    def __init__(self, run: Run) -> None:
        self._run = run
        #: What goes on, and since when, monotonic seconds.
        self._what: object = None
        self._since = time.monotonic()

    def __call__(self) -> str:
        record = self._run.record
        phase = record.phases[-1].name if record.phases and record.phases[-1].seconds is None else ""
        reason = record.reason or ("waiting" if record.state is RunState.PENDING else "")
        what = (record.state, record.attempt, phase)
        if what != self._what:
            self._what, self._since = what, time.monotonic()
        is_job = record.state is RunState.RUNNING and phase in ("", "end")
        seconds = int(time.monotonic() - self._since)
        if record.state.is_final or is_job or not reason or not seconds:
            return ""
        return f"{reason} ({humane.duration(seconds)})"


def _say_state(run: Run, state: RunState, *more: str) -> None:
    terminal.say("run ", run.id, " ", terminal.state(state.value), *more, err=True)
