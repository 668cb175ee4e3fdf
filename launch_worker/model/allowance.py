"""Defines allowances: what the runs of a user, a group or a project may have at once."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from launch_worker.errors import InputError

#: Largest number of an allowance.
MOST = 1_000_000
_NAME = re.compile(r"user:\*|(user|group|project):[A-Za-z0-9][A-Za-z0-9_.@+/-]{0,220}")


@dataclass(frozen=True)
class Allowance:
    """What the runs of one user, group or project may have at once, and have now. None: no such limit."""

    #: Kind and name, such as `user:ada` or `project:me/iris`.
    name: str
    most_waiting: int | None
    most_running: int | None
    most_gpus: int | None
    waiting: int = 0
    running: int = 0
    gpus: int = 0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def check_allowance(name: str, *numbers: int | None) -> None:
    """Raise InputError for a name or a number that cannot be one of an allowance."""
    if not _NAME.fullmatch(name):
        raise InputError("an allowance is of user:NAME, group:NAME or project:NAME, or user:*, each user without one")
    if any(number is not None and not 0 <= number <= MOST for number in numbers):
        raise InputError(f"an allowance is a number from 0 to {MOST:,}")


def kept_name(name: str) -> str:
    """The name as it is kept in Redis: a park group has no slash in its name."""
    return name.replace("/", ":")
