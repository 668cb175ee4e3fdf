"""Says what the end of a run means and what to do about it, and what would help one that waits: from facts alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from launch_worker import humane
from launch_worker.model.advice import enough_memory
from launch_worker.model.last_exception import last_exception
from launch_worker.model.needs import parse_needs
from launch_worker.model.outcome import exception_of, signal_name
from launch_worker.model.run import Record
from launch_worker.model.states import RunState
from launch_worker.model.units import MAX_DURATION_S, format_duration, format_size, parse_size
from launch_worker.model.usage import Usage
from launch_worker.model.worker import why_never, why_unserved
from launch_worker.untrusted.text import read_map

#: Exit codes of shells from here on stand for a signal: 128 and its number.
_SHELL_SIGNAL = 128
#: Words of the reason of a job that the kernel or its engine has ended for lack of memory.
_OUT_OF_MEMORY = ": out of memory (the "


@dataclass(frozen=True)
class Hint:
    """What a person who looks at a run should know first."""

    #: What happened, in a few words.
    what: str
    #: Sentences: what that means, and what to do.
    text: str = ""
    #: Options of another run that would help, as people write them.
    ask: Mapping[str, str] = field(default_factory=dict)
    #: Command that would help.
    command: str = ""


# -- how a run ended ---------------------------------------------------------------------------------------------------


def hint_of_end(record: Record, output: str = "") -> Hint | None:
    """The hint for a run that ended badly; None for one that did not. `output` is its last lines."""
    if record.state is RunState.FAILED:
        return _of_failure(record, output)
    if record.state is RunState.CRASHED:
        return Hint(
            "Its worker was lost.",
            f"{humane.sentence(record.reason)} How its job would have ended is not known. --retries has it run again.",
            ask={"retries": "2"},
        )
    if record.state is RunState.KILLED:
        text = ""
        if "--expires" in record.reason:
            text = "Give it longer to start, or a queue that is served sooner."
        return Hint(humane.sentence(record.reason) or "It was cancelled.", text)
    return None


def meaning_of(record: Record) -> str:
    """What a Failed run's exit code or signal means, in a few words, where its reason names nothing else; else ''."""
    if record.reason not in (f"exit code {record.exit_code}", f"ended by {record.signal}"):
        return ""
    code = record.exit_code or 0
    name = _signal_of(record)
    what = _CODES[code][0] if code in _CODES else _SIGNALS[name][0] if name in _SIGNALS else ""
    if not what and name and code:
        what = f"It was ended by {name}"
    return f"{what[0].lower()}{what[1:]}" if what else ""


def _signal_of(record: Record) -> str:
    """The signal that ended the job, also where a shell has made an exit code of it; '' for none."""
    code = record.exit_code or 0
    return record.signal or (signal_name(code - _SHELL_SIGNAL) if _SHELL_SIGNAL < code <= _SHELL_SIGNAL + 64 else "")


def _of_failure(record: Record, output: str) -> Hint:
    reason = record.reason
    exception = exception_of(reason)
    if _OUT_OF_MEMORY in reason and not exception:
        return _of_memory(record)
    if record.phase in _PHASES:
        return Hint(
            humane.sentence(reason) or "It did not start.", _PHASES[record.phase] or _of_start(record.phase, reason)
        )
    if reason.startswith("time limit of"):
        return _of_time(record)
    if reason.startswith("no output for"):
        text = (
            "It was silent for longer than --stall-timeout allows. See where it hangs, or have it print now and then."
        )
        return Hint(humane.sentence(reason), text)
    by_code = _by_code(record)
    exception = exception or last_exception(output)
    if exception and not (by_code and by_code.ask):
        code = f"Exit code {record.exit_code}." if record.exit_code else humane.sentence(reason or "the job failed")
        return Hint(exception, " ".join(filter(None, [code, _of_exception(exception)])))
    if by_code is not None:
        return by_code
    text = "The program chose this code; the last lines of its output say more." if record.exit_code else ""
    return Hint(humane.sentence(reason) or "It failed.", text)


def _of_exception(exception: str) -> str:
    """What to do about it; '' where only the program's author can know."""
    return next((text for pattern, text in _EXCEPTIONS if re.search(pattern, exception)), "")


#: Exceptions of which more is known than their text says.
_EXCEPTIONS = (
    (
        r"^(torch\.\S*)?OutOfMemoryError|CUDA (error: )?out of memory",
        "The GPU had no memory left: a smaller batch, or a GPU with more.",
    ),
    (r"^(\w+\.)*_?(Array)?MemoryError", "Its machine gave it no more memory: ask for more with --memory."),
    (
        r"^(ModuleNotFoundError|ImportError)",
        "The Python of the job lacks it: name what it needs in a file with --requirements, start it by the interpreter "
        "of an environment that has it, or take an --image.",
    ),
    (
        r"^FileNotFoundError",
        "Paths count on the worker's machine: send the file along with --upload, or put it where all machines see it.",
    ),
)

#: Advice for the phases before the program runs.
_PHASES = {
    # Its reason says what to do.
    "build": "",
    "start": "",
    "agent": "The worker could not begin. Another try may meet another worker; launch-worker doctor seeks the cause.",
}


#: Reasons why there is no environment that say what to do.
_OF_ENVIRONMENT = re.compile(r"this worker|requirements|environment|local package|uv\.lock")


def _of_start(phase: str, reason: str) -> str:
    if phase == "build":
        if reason.startswith("the environment of"):
            return "Its log has what uv said: mend the requirements, and submit it again."
        if _OF_ENVIRONMENT.search(reason):
            return ""
        return "Its code could not be brought to the worker: look at the URL, the branch, and what the worker may read."
    if "could not be pulled from registry" in reason:
        return (
            "See whether the image's name is right. A registry may also call an image unknown that the account may not "
            "pull: an admin gives the worker, or the queue, a credential that may (docs/reference/containers.md)."
        )
    if "was not found" in reason:
        return (
            "The path counts on the worker's machine. Give the program's whole path, an --image that has it, or send "
            "your folder along with --upload."
        )
    if "is not executable" in reason or "permission denied" in reason:
        return "Make the file executable (chmod +x), or start it by its interpreter: python train.py, bash job.sh."
    if "working directory" in reason:
        return "The folder must be on the worker's machine: leave out --cwd, or send your folder along with --upload."
    if "interpreter" in reason:
        return "Its first line, as #!/usr/bin/python3, must name a program of the worker's machine."
    return "It failed before its program began, so its own output says nothing."


def _of_memory(record: Record) -> Hint:
    peak, asked = Usage.of(record.usage).peak_memory or 0, parse_needs(record.needs).memory
    used = f"The kernel ended it at {humane.size(peak)}" if peak else "The kernel ended it for lack of memory"
    had = f"it had asked for {humane.size(asked)}" if asked else "it had asked for none, so that none was kept for it"
    most = max(peak, asked)
    # What it would have used is not known: more than it was given.
    wanted = enough_memory(int(1.5 * most)) if most else ""
    limits = read_map(record.spec).get("memory")
    if isinstance(limits, str):
        text = f"{used}; {had}, after twice as much each time (--memory {limits})."
    else:
        grows = f" --memory {wanted}..{format_size(2 * parse_size(wanted))} has it tried again with twice as much."
        text = f"{used}; {had}.{grows if wanted else ''}"
    return Hint("Out of memory.", text, {"memory": wanted} if wanted else {})


def _of_time(record: Record) -> Hint:
    limit_s = read_map(record.spec).get("timeout_s")
    ask = {}
    if isinstance(limit_s, (int, float)) and 0 < limit_s <= MAX_DURATION_S / 2:
        ask = {"timeout": format_duration(2 * limit_s).replace(" ", "")}
    text = "Ask for more with --timeout, or have it save its work when SIGTERM comes, and go on from there next time."
    return Hint(humane.sentence(record.reason), text, ask)


def _by_code(record: Record) -> Hint | None:
    code = record.exit_code or 0
    if code in _CODES:
        what, text = _CODES[code]
        return Hint(f"{what} (exit code {code}).", text)
    name = _signal_of(record)
    if name == "SIGKILL":
        return _of_kill(record)
    if name not in _SIGNALS:
        return Hint(f"Ended by {name}.") if record.signal else None
    what, text = _SIGNALS[name]
    how = f"exit code {code}, {name}" if not record.signal else name
    return Hint(f"{what} ({how}).", text)


def _of_kill(record: Record) -> Hint:
    how = "SIGKILL" if record.signal else "exit code 137, SIGKILL"
    peak, asked = Usage.of(record.usage).peak_memory or 0, parse_needs(record.needs).memory
    said = "Nobody asked for that here: mostly it is the kernel, for lack of memory, or a kill -9 on its machine."
    ask = {}
    if peak:
        said += f" It used {humane.size(peak)} of memory at most"
        said += f", and had asked for {humane.size(asked)}." if asked else ", and had asked for none."
        if not asked or peak > 0.8 * asked:
            ask = {"memory": enough_memory(max(peak, asked))}
    return Hint(f"It was killed ({how}).", said, ask)


#: Exit codes with a meaning that programs share.
_CODES = {
    126: (
        "A command could not be executed",
        "The shell found it, and may not start it: make it executable (chmod +x), or start it by its interpreter.",
    ),
    127: (
        "A command was not found",
        "The shell did not find it, or a library of it: the last line names it. Look at PATH on the worker, or take an "
        "--image that has it.",
    ),
    124: ("It took longer than its own limit", "The program timeout, with which the command begins, ended it."),
}
_SIGNALS = {
    "SIGSEGV": (
        "It crashed in native code",
        "A library read memory that is not its own. PYTHONFAULTHANDLER=1 has Python print where.",
    ),
    "SIGABRT": (
        "It aborted itself",
        "Native code found something that must not be, or no memory: its last lines mostly say what.",
    ),
    "SIGBUS": (
        "It lost memory that it had mapped",
        "Mostly a full /dev/shm (in a container: --shm-size 8G), or a file that was cut while it was read.",
    ),
    "SIGFPE": ("It computed what no number is", "Mostly a whole number was divided by zero in native code."),
    "SIGILL": ("It has code that this machine does not know", "It was built for another processor: build it anew."),
    "SIGTERM": (
        "It was asked to end",
        "Not by the launch system: by its machine when that shut down, or by somebody on it. With --retries it is "
        "tried again.",
    ),
    "SIGINT": ("It was interrupted", "Not by the launch system: by itself, or by somebody on its machine."),
    "SIGHUP": ("It was hung up", "Not by the launch system: by itself, or by somebody on its machine."),
    "SIGPIPE": ("It wrote to a program that had gone", "A part of a pipe ended before the others had."),
    "SIGXCPU": ("It used up its CPU time", "A limit of its machine (ulimit -t) ended it."),
    "SIGXFSZ": ("It wrote too large a file", "A limit of its machine (ulimit -f) ended it."),
}


# -- why a run waits ---------------------------------------------------------------------------------------------------


def hint_of_wait(record: Record, why: str, workers: Sequence[Mapping[str, Any]]) -> Hint:
    """The hint for a Pending run. `why`: the reason that is shown of it; `workers`: descriptions of the live ones."""
    what = humane.sentence(why) or "It is about to start."
    queue = record.queue
    if record.waits_for:
        return Hint(what, "It starts by itself when they have ended so; when they cannot any more, it is Killed.")
    if record.due_at is not None:
        return Hint("Its time has not come.", "It starts by itself.")
    own = [worker for worker in workers if queue in (worker.get("queues") or ())]
    if record.needs and (never := why_never(record.needs, own)):
        return Hint(what, f"No worker will ever have that: it wants {never}. Ask for less, or start a larger worker.")
    if why.startswith("not on "):
        text = "It starts on the first other worker that has room, and on that one again when no other may take it."
        return Hint(what, text)
    if why.startswith("waiting for "):
        return Hint(what, "It starts when runs that hold them have ended.")
    if why == "queue paused":
        return Hint(
            f"Queue {queue} is paused.", "An admin has it go on.", command=f"launch-worker queues resume {queue}"
        )
    if match := re.fullmatch(r"pool (\S+) paused", why):
        return Hint(
            f"Pool {match[1]} is paused.", "An admin has it go on.", command=f"launch-worker pools resume {match[1]}"
        )
    if match := re.fullmatch(r"limit (\d+) of (queue|pool) (\S+) reached", why):
        limit, kind, name = match.groups()
        text = f"It starts when one of the {limit} that run there has ended; an admin may raise the limit."
        return Hint(what, text, command=f"launch-worker {kind}s set {name} --limit {2 * int(limit)}")
    if re.fullmatch(r"limit \d+ of (key|array) \S+ reached", why):
        return Hint(what, "It starts when one of those that run has ended.")
    if match := re.fullmatch(r"(user|group|project) (\S+) may (?:have|hold) .*", why):
        return Hint(what, f"It starts when another run of this {match[1]} has ended; an admin sets what each may have.")
    if why.startswith(("no worker consumes", "worker ")):
        command = why_unserved(workers, queue).rpartition(": ")[2]
        return Hint(what, "It starts as soon as one does.", command=command)
    if why.startswith("all slots"):
        text = "It starts when one of their runs has ended; another worker or a higher priority would be sooner."
        return Hint(what, text, command=f"celery -A launch_worker worker -Q {queue}")
    return Hint(what, "" if why else "It is ready, and there is room.")
