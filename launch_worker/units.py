"""Durations, sizes and times as people write them."""

from __future__ import annotations

import re
from datetime import datetime, timezone

from launch_worker.errors import InputError

_DURATION = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)?")
_DURATION_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"([0-9]{1,15})([KMGT]?)(?:i?B)?", re.IGNORECASE)
_SIZE_BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

#: Longer than any job, and small enough that microseconds stay exact in a double.
MAX_DURATION_S = 10 * 365 * 86400.0


def parse_duration(value: str | float, *, what: str = "duration") -> float:
    """Seconds of `90`, `90s`, `1.5m`, `2h`, `3d`; refuses negatives, nan and more than ten years."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    else:
        match = _DURATION.fullmatch(str(value).strip())
        if match is None:
            raise InputError(f"{what} {value!r} is not a duration; write it as 90, 90s, 5m, 2h or 3d")
        seconds = float(match[1]) * _DURATION_S[match[2] or "s"]
    if not 0 <= seconds <= MAX_DURATION_S:
        raise InputError(f"{what} {value!r} is out of range; it must be between 0 and 3650d")
    return seconds


def parse_size(value: str | int, *, what: str = "size") -> int:
    """Bytes of `1048576`, `512K`, `512M`, `2G` (powers of 1024)."""
    match = _SIZE.fullmatch(str(value).strip())
    if match is None:
        raise InputError(f"{what} {value!r} is not a size; write it as 1048576, 512M or 2G")
    return int(match[1]) * _SIZE_BYTES[match[2].upper()]


def format_duration(seconds: float) -> str:
    """The shortest of the forms that `parse_duration` reads: `30 s`, `5 m`, `1.5 h`."""
    for unit in ("d", "h", "m"):
        if seconds >= _DURATION_S[unit]:
            return f"{seconds / _DURATION_S[unit]:.3g} {unit}"
    return f"{seconds:.3g} s"


def isoformat(micros: int | None) -> str | None:
    """ISO 8601 in UTC of a time in microseconds, as all times in the store are; None for none, or a damaged one."""
    if micros is None:
        return None
    try:
        return datetime.fromtimestamp(micros / 1e6, tz=timezone.utc).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return None
