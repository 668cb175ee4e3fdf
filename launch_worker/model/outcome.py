"""Says how an attempt ended, and what an exit status means."""

from __future__ import annotations

import re
import signal as signals
from dataclasses import dataclass, replace

from launch_worker.model.states import RunState

_WITH_EXCEPTION = re.compile(r"(?!preempted )([A-Za-z_][\w.]*(?::.*)?) \(exit code \d+\)(?:;|$)")
#: Parts of an attempt in which it can fail.
PHASES = ("agent", "build", "start", "run")
#: Exit code of a shell whose child died of SIGKILL.
_SHELL_SIGKILL = 137
_DISK_WAS_FULL = "the worker's disk was full while it ran: output may be missing"


@dataclass(frozen=True)
class Outcome:
    """The truth about one attempt's end, as its worker saw it."""

    state: RunState
    #: Reason for people. Empty for a plain exit 0.
    reason: str = ""
    #: Phase in which a Failed attempt failed, one of PHASES.
    phase: str = ""
    #: Detail of a failure: the error's text, a traceback's last lines.
    message: str = ""
    exit_code: int | None = None
    #: Name of the signal that ended the job's main process, as `SIGKILL`.
    signal: str = ""
    #: Cause of a failure that neither exit code nor signal tells: `oom`, `timeout`, `stall`; '' for none.
    cause: str = ""
    #: Whether the worker ended the job because it stops itself: the run is handed back if it has retries left.
    by_shutdown: bool = False
    #: Whether the job said that it was preempted, or a preemption was asked for: it runs again.
    preempted: bool = False
    #: Whether the job had not begun when its worker began to stop, or could not renew its lease: the run goes back to
    #: its queue, and no retry is used up.
    unbegun: bool = False
    #: Whether the worker made it fail, as by a full disk, and would fail other runs too.
    worker_fault: bool = False
    #: Whether the container engine made it fail, which processes would not suffer from.
    engine_fault: bool = False
    #: Exit code, or signal's name, of the process of a job that had called itself finished before.
    late_exit: str = ""


def outcome_of_exit(status: int, *, preempt_exit_code: int = 85) -> Outcome:
    """The outcome of a job that ended by itself, from its exit status (negative: minus the signal's number)."""
    if status == 0:
        return Outcome(RunState.FINISHED, exit_code=0)
    if status == preempt_exit_code:
        return Outcome(
            RunState.FAILED, reason=f"preempted (exit code {status})", phase="run", exit_code=status, preempted=True
        )
    if status > 0:
        return Outcome(RunState.FAILED, reason=f"exit code {status}", phase="run", exit_code=status)
    name = signal_name(-status)
    return Outcome(RunState.FAILED, reason=f"ended by {name}", phase="run", message=f"ended by {name}", signal=name)


def wants_exception(outcome: Outcome) -> bool:
    """Whether nothing is known of the end but the exit code that the program chose."""
    return outcome.state is RunState.FAILED and outcome.reason == f"exit code {outcome.exit_code}"


def with_exception(outcome: Outcome, exception: str) -> Outcome:
    """The same end with the exception that the program printed last as its reason; '' changes nothing."""
    if not exception or not wants_exception(outcome):
        return outcome
    return replace(outcome, reason=f"{exception} ({outcome.reason})")


def with_full_disk(outcome: Outcome) -> Outcome:
    """The same end of a job whose output was given up, for its worker's disk was full."""
    return replace(outcome, message=f"{outcome.message}\n{_DISK_WAS_FULL}".strip())


def with_out_of_memory(outcome: Outcome) -> Outcome:
    """The same end of a job of which the kernel has ended a process, perhaps the main one, for want of memory."""
    if outcome.state is not RunState.FAILED or outcome.late_exit or outcome.preempted:
        return outcome  # the job had said before how it ends, or something else was asked of it
    was_main = outcome.signal == "SIGKILL" or outcome.exit_code == _SHELL_SIGKILL
    what = "it" if was_main else "a process of it"
    text = f"{outcome.reason}: out of memory (the kernel's OOM killer ended {what})"
    message = outcome.message.replace(outcome.reason, text)
    return replace(outcome, reason=text, message=message, cause=outcome.cause or "oom")


def exception_of(reason: str) -> str:
    """The exception of a reason that `with_exception` made; '' for another reason."""
    match = _WITH_EXCEPTION.match(reason)
    return match[1] if match else ""


def signal_name(number: int) -> str:
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def signal_number(name: str) -> int:
    """The number of a signal, by its name as `signal_name` gives it; 0 for none of this name."""
    number = getattr(signals, name, None)
    if isinstance(number, signals.Signals):
        return int(number)
    return int(name[3:]) if name.startswith("SIG") and name[3:].isdecimal() and len(name) <= 5 else 0


def shell_exit_code(state: RunState, exit_code: int | None, signal: str) -> int:
    """The exit code of `--wait`: the job's own, 128+n for signal n, 143 Killed, 70 Crashed.

    A Failed run never gives 0, also when its job exited 0 after a time limit stopped it.
    """
    if state is RunState.FINISHED:
        return 0
    if state is RunState.KILLED:
        return 143
    if state is RunState.CRASHED:
        return 70
    if signal:
        return 128 + signal_number(signal)
    return exit_code or 1
