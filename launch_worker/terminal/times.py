"""Says ages and durations of what has ISO times."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from launch_worker import humane
from launch_worker.terminal.screen import Screen


def seconds_since(isotime: str, *, now: datetime | None = None) -> float:
    """Seconds from this time to now; negative for a time to come."""
    return ((now or datetime.now(UTC)) - datetime.fromisoformat(isotime)).total_seconds()


def age(isotime: str | None, *, now: datetime | None = None) -> str:
    """The time since then in one unit, `3 min`; '' for not known."""
    return "" if isotime is None else humane.span(seconds_since(isotime, now=now))


def ago(isotime: str | None, *, now: datetime | None = None) -> str:
    """How long ago it was, `3 min ago`, or when it is to come, `in 3 h`; '' for not known."""
    return "" if isotime is None else humane.ago(seconds_since(isotime, now=now))


def when(isotime: str | None, unknown: str = "") -> Callable[[Screen], str]:
    """A time for a table: how long ago it was, or when it is to come; a pipe gets the time itself."""
    return lambda screen: (ago(isotime) if screen.is_terminal else isotime or "") or unknown


def run_time(run: dict[str, Any], *, now: datetime | None = None) -> str:
    """The time that a run ran, or has run so far; '' for one that did not."""
    if run["started_at"] is None:
        return ""
    end = datetime.fromisoformat(run["ended_at"]) if run["ended_at"] else now
    return humane.duration(seconds_since(run["started_at"], now=end))
