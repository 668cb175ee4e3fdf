"""Decides what a worker's probes answer: whether it is alive, reaches Redis, takes runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger("launch_worker.probe")

#: Seconds without Redis after which a worker is not healthy.
UNREACHABLE_S = 30.0
#: Seconds after which the heartbeats, or the loop that takes runs, count as standing still: longer than any call to
#: Redis may take.
_STUCK_S = 60.0


@dataclass(frozen=True)
class Verdict:
    """The answer to one probe, and one sentence of why."""

    ok: bool
    reason: str


def patience_s(heartbeat_s: float) -> float:
    """Seconds since the last heartbeat that reached Redis, at most, of a healthy worker."""
    return max(UNREACHABLE_S, 3 * heartbeat_s)


def touch(file: Path) -> None:
    """Note by the file's time that Redis was reached now; a failure is logged only."""
    try:
        file.touch()
    except OSError as error:
        log.error("health.file_untouched %s", error)


class Vitals:
    """One worker's signs of life, noted by its heartbeats and read by its probes. Thread-safe."""

    def __init__(
        self,
        *,
        heartbeat_s: float,
        file: Path | None,
        is_away: Callable[[], bool],
        why_no_runs: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._heartbeat_s = heartbeat_s
        self._file = file
        self._is_away = is_away
        self._why_no_runs = why_no_runs
        self._clock = clock
        self._turned_at = self._reached_at = clock()
        self._has_reached = False
        #: Number of heartbeats that came later than they should.
        self.late = 0
        #: Time at which the loop that takes runs last turned, or could not as Redis was away; None without a loop.
        self._looped_at: float | None = None

    def note_turn(self) -> None:
        """Note that a heartbeat begins, whether or not it succeeds."""
        self._turned_at = self._clock()

    def note_reached(self) -> None:
        """Note that a heartbeat has reached Redis."""
        before, self._reached_at = self._reached_at, self._clock()
        self.late += self._has_reached and self._reached_at - before > 2 * self._heartbeat_s
        self._has_reached = True
        if self._looped_at is not None and self._is_away():
            # The loop connects anew next.
            self._looped_at = self._clock()
        if self._file is not None and not self.stuck():
            touch(self._file)

    def note_loop(self, goes_on: bool) -> None:
        """Note that the loop that takes runs has turned, or that it has ended as it should."""
        self._looped_at = self._clock() if goes_on else None

    def stuck(self) -> str:
        """A sentence when the loop that takes runs stands still, though Redis is there; '' when it does not."""
        if self._looped_at is None or self._is_away():
            return ""
        silent_s = self._clock() - self._looped_at
        if silent_s <= _STUCK_S:
            return ""
        return f"the worker's loop has stood still for {silent_s:.0f} s: it takes no runs; restart it"

    def forget(self) -> None:
        """Delete the file when the worker ends: it must not speak for the worker any longer."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    @property
    def silent_s(self) -> float:
        """Seconds since a heartbeat has last reached Redis, and renewed the leases."""
        return self._clock() - self._reached_at

    def live(self) -> Verdict:
        """Whether the worker itself works. An outage of Redis, which it survives, does not count."""
        silent_s = self._clock() - self._turned_at
        if silent_s > self._heartbeat_s + _STUCK_S:
            return Verdict(False, f"the heartbeats have stood still for {silent_s:.0f} s")
        if why := self.stuck():
            return Verdict(False, why)
        return Verdict(True, "the worker lives")

    def healthy(self) -> Verdict:
        """Whether heartbeats reach Redis: not so once they have not for 30 s."""
        silent_s = self.silent_s
        if silent_s > patience_s(self._heartbeat_s):
            return Verdict(False, f"Redis has not been reached for {silent_s:.0f} s; jobs go on, their reports wait")
        if why := self.stuck():
            return Verdict(False, why)
        return Verdict(True, "the heartbeats reach Redis" if self._has_reached else "the worker has just started")

    def ready(self) -> Verdict:
        """Whether the worker takes runs now."""
        if not self._has_reached:
            return Verdict(False, "the worker has not reached Redis yet")
        if self._is_away():
            return Verdict(False, "Redis is away")
        if not self.healthy().ok:
            return self.healthy()
        why = self._why_no_runs()
        return Verdict(not why, why or "the worker takes runs")
