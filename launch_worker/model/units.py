"""Reads and writes durations, sizes and times as people write them."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from launch_worker.errors import InputError

_DURATION = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,9})?")
#: Durations of several units, the larger unit first, each at most once: `1h30m`.
_PARTS = re.compile("".join(rf"(?:([0-9]{{1,15}}(?:\.[0-9]{{1,9}})?){unit})?" for unit in ("d", "h", "m", "s", "ms")))
_DURATION_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([KMGT]?)(?:i?B)?", re.IGNORECASE)
_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?")
#: Epoch seconds; fewer digits could be meant as a date.
_EPOCH = re.compile(r"[0-9]{9,10}(?:\.[0-9]{1,9})?")
_ISO_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?)\s?([Zz]|[+-]\d\d(?::?\d\d)?)?)?"
)
_BEGIN = datetime(1970, 1, 1, tzinfo=UTC)
_SIZE_BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

#: Seconds of the longest duration: longer than any job, and its microseconds are exact in a double.
MAX_DURATION_S = 10 * 365 * 86400.0

#: Numbers from here on are damaged.
_TOO_MUCH = 1 << 62


def is_number(value: Any) -> bool:
    """Whether a value that others wrote is a number which is not absurdly large."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _TOO_MUCH


def parse_duration(value: str | float, *, what: str = "duration") -> float:
    """Seconds of `90`, `90s`, `1.5m`, `2h`, `1h30m`, `3d`; refuses negatives, nan and more than ten years."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    else:
        text = str(value).strip()
        parts = _PARTS.fullmatch(text)
        if text and parts is not None:
            units = zip(("d", "h", "m", "s", "ms"), parts.groups(), strict=True)
            seconds = sum(float(number) * _DURATION_S[unit] for unit, number in units if number)
        elif _DURATION.fullmatch(text):
            seconds = float(text)
        else:
            raise InputError(f"{what} {value!r} is not a duration; write it as 90, 90s, 5m, 2h, 1h30m or 3d")
    if not 0 <= seconds <= MAX_DURATION_S:
        raise InputError(f"{what} {value!r} is out of range; it must be between 0 and 3650d")
    return seconds


def parse_size(value: str | int, *, what: str = "size") -> int:
    """Bytes of `1048576`, `512K`, `512M`, `1.5G` (powers of 1024)."""
    match = _SIZE.fullmatch(str(value).strip())
    if match is None or ("." in match[1] and not match[2]):
        raise InputError(f"{what} {value!r} is not a size; write it as 1048576, 512M or 1.5G")
    unit = _SIZE_BYTES[match[2].upper()]
    return round(float(match[1]) * unit) if "." in match[1] else int(match[1]) * unit


def parse_time(value: str | float | datetime, *, now_s: float | None = None, what: str = "time") -> int:
    """Microseconds since 1970 of an ISO 8601 date or time, of epoch seconds, or of `HH:MM`: the next such time.

    Without a zone it is this machine's. Refuses what is more than ten years from now (`now_s`, epoch seconds).
    """
    now_s = time.time() if now_s is None else now_s
    try:
        micros = (_moment(value, now_s).astimezone(UTC) - _BEGIN) // timedelta(microseconds=1)
    except (ValueError, OverflowError, OSError):
        raise InputError(
            f"{what} {str(value)[:60]!r} is not a time; write it as 2030-01-31T14:30, 2030-01-31T14:30:00Z, 14:30 or "
            "epoch seconds"
        ) from None
    if abs(micros / 1e6 - now_s) > MAX_DURATION_S:
        raise InputError(f"{what} {str(value)[:60]!r} is more than 3650d away; check the year")
    return micros


def _moment(value: str | float | datetime, now_s: float) -> datetime:
    if isinstance(value, datetime):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _BEGIN + timedelta(seconds=value)
    text = str(value).strip()
    if not text.isascii():
        raise ValueError(text)
    if _EPOCH.fullmatch(text):
        return _BEGIN + timedelta(seconds=float(text))
    if match := _CLOCK.fullmatch(text):
        now = datetime.fromtimestamp(now_s)
        hour, minute, seconds = (int(part or 0) for part in match.groups())
        at = now.replace(hour=hour, minute=minute, second=seconds, microsecond=0, fold=0)
        return at if at.timestamp() > now_s else at + timedelta(days=1)
    if match := _ISO_TIME.fullmatch(text):
        date, clock, zone = match.groups()
        return datetime.fromisoformat(f"{date}T{clock or '00:00'}{(zone or '').upper()}")
    raise ValueError(text)


def format_duration(seconds: float) -> str:
    """The shortest of the forms that `parse_duration` reads: `30 s`, `5 m`, `1.5 h`."""
    for unit in ("d", "h", "m"):
        if seconds >= _DURATION_S[unit]:
            return f"{seconds / _DURATION_S[unit]:.3g} {unit}"
    return f"{seconds:.3g} s"


def isoformat(micros: int | None) -> str | None:
    """ISO 8601 in UTC of a time in microseconds, as all times in the store are; None for no time, or a damaged one."""
    if micros is None:
        return None
    try:
        return datetime.fromtimestamp(micros / 1e6, tz=UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return None


def micros_of(value: Any) -> int | None:
    """The microseconds of a time that `isoformat` wrote; None for no time."""
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return (moment - _BEGIN) // timedelta(microseconds=1) if moment.tzinfo else None


def format_size(size: float) -> str:
    """Bytes in a form that `parse_size` reads: `512K`, `1.5G`, `11G`."""
    for unit in ("T", "G", "M", "K"):
        if size >= _SIZE_BYTES[unit]:
            number = size / _SIZE_BYTES[unit]
            return (f"{number:.0f}" if number >= 10 else f"{number:.1f}".removesuffix(".0")) + unit
    return str(int(size))


def as_us(seconds: float) -> int:
    """Whole microseconds, in which the scripts count time."""
    return round(seconds * 1e6)


def since_ms(since: str | float, now_ms: int, *, what: str = "since") -> int:
    """The time, milliseconds since 1970, that `since` means: a duration before now, or the latest such time."""
    try:
        return now_ms - int(1000 * parse_duration(since, what=what))
    except InputError:
        try:
            at_ms = parse_time(since, now_s=now_ms / 1000, what=what) // 1000
        except InputError:
            raise InputError(
                f"{what} {str(since)[:60]!r} is neither a duration, as 10m, nor a time, as 2030-01-31T14:30 or 14:30"
            ) from None
    # `14:30` is the next such time.
    return at_ms - 86_400_000 if at_ms > now_ms else at_ms
