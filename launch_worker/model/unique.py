"""Reads the keys by which a run is unique: for as long as it is kept, for a time, or until it has ended."""

from __future__ import annotations

import re
from typing import NamedTuple

from launch_worker.errors import InputError
from launch_worker.model.units import parse_duration

_KEY = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
#: Forms of a key that holds for a time: KEY:for 1h, KEY:until-end.
_TIMED = re.compile(r"(?P<key>.+):(?:for (?P<time>[^:]*)|(?P<end>until-end))")


def check_unique(key: str) -> str:
    """The key, for one by which a run shall be unique. Raises InputError."""
    if not isinstance(key, str) or not _KEY.fullmatch(key) or not key.isprintable():
        raise InputError(f"unique {str(key)[:40]!r} is not allowed: 1 to 200 characters without control characters")
    parse_unique(key)
    return key


class Unique(NamedTuple):
    """A key of which there is one run: as long as the run is kept, for a time, or until the run has ended."""

    key: str
    for_s: float | None = None
    until_end: bool = False

    @property
    def is_timed(self) -> bool:
        """Whether the key makes another run later."""
        return self.until_end or self.for_s is not None


def parse_unique(text: str) -> Unique:
    """The key of KEY, `KEY:for 1h` or `KEY:until-end`. Raises InputError."""
    match = _TIMED.fullmatch(text)
    if match is None:
        return Unique(text)
    if match["end"]:
        return Unique(match["key"], until_end=True)
    for_s = parse_duration(match["time"], what="the time for which a key is unique")
    if not for_s:
        raise InputError("the time for which a key is unique must be more than 0")
    return Unique(match["key"], for_s)
