"""Reads the signals that people name for a job, by the names and numbers that they have on Linux.

A submitter's own machine may number them otherwise, so the numbers of Python's `signal` are not asked.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from launch_worker.errors import InputError
from launch_worker.model.units import parse_duration

#: Names, in the order of their numbers from 1.
_NAMES = (
    *("HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM"),
    *("TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF"),
    *("WINCH", "IO", "PWR", "SYS"),
)
#: Signals of which no program learns.
_UNSEEN = ("KILL", "STOP")
_AHEAD = re.compile(r"([A-Za-z0-9]+)(?:@([0-9a-z.]+))?")
#: Time ahead of the end, where none is given: Slurm's.
AHEAD_S = 60.0


class Ahead(NamedTuple):
    """A signal that a job gets ahead of its end."""

    #: Name, as `SIGUSR1`.
    name: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.name}@{self.seconds:g}"


def parse_signal(text: str, *, what: str = "signal") -> str:
    """The name, as `SIGUSR1`, of `USR1`, `SIGUSR1` or `10`. Raises InputError."""
    word = str(text).strip().upper().removeprefix("SIG")
    if word.isascii() and word.isdigit() and len(word) < 3 and 1 <= int(word) <= len(_NAMES):
        word = _NAMES[int(word) - 1]
    if word in _UNSEEN:
        raise InputError(f"{what} SIG{word} reaches no program; choose another signal, for instance TERM or USR1")
    if word not in _NAMES:
        raise InputError(f"{what} {str(text)[:40]!r} is no signal; write it as USR1, SIGUSR1 or 10")
    return f"SIG{word}"


def number_of(name: str) -> int:
    """The number on Linux of a signal's name, as `SIGUSR1`."""
    return _NAMES.index(name.removeprefix("SIG")) + 1


def parse_ahead(text: str) -> Ahead:
    """The signal and its time ahead of `USR1@120`, `10@2m` or `USR1` alone. Raises InputError."""
    match = _AHEAD.fullmatch(str(text).strip())
    if match is None:
        raise InputError(
            f"signal {str(text)[:40]!r} is not a signal and a time; write it as USR1@120: that long before the end"
        )
    seconds = AHEAD_S if match[2] is None else parse_duration(match[2], what="the time of the signal")
    if not seconds:
        raise InputError("the time of the signal must be more than 0: how long before the end it comes")
    return Ahead(parse_signal(match[1]), seconds)
