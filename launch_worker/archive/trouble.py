"""Says once that something is away, and once that it is back; the pauses between two tries grow."""

from __future__ import annotations

import logging
import random
import time

log = logging.getLogger("launch_worker.archive")

#: Seconds between two tries while something is away: first, and at most; and between two lines of the log about it.
_PAUSE_S = 0.2
_PAUSE_CAP_S = 10.0
_SAY_AGAIN_S = 300.0


class Trouble:
    """One thing that may be away. `waits` and `goes_on` are the words by which its lines in the log begin."""

    def __init__(self, waits: str, goes_on: str) -> None:
        self._waits = waits
        self._goes_on = goes_on
        self._since: float | None = None
        self._said = ""
        self._said_at = 0.0
        self._failures = 0

    def pause_s(self, error: Exception) -> float:
        """Seconds to wait before the next try."""
        now = time.monotonic()
        self._since = self._since if self._since is not None else now
        if type(error).__name__ != self._said or now - self._said_at > _SAY_AGAIN_S:
            self._said, self._said_at = type(error).__name__, now
            log.warning("%s for_s=%.0f: %s", self._waits, now - self._since, error)
        self._failures += 1
        return min(_PAUSE_S * 2.0 ** min(self._failures, 20), _PAUSE_CAP_S) * random.uniform(0.5, 1.0)

    def over(self) -> None:
        """Note that it answers."""
        if self._since is not None:
            log.warning("%s after_s=%.0f", self._goes_on, time.monotonic() - self._since)
            self._since, self._said, self._failures = None, "", 0
