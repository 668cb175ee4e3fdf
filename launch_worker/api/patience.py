"""Outlasts outages: whoever waits for runs tries again while Redis, or the server, is away."""

from __future__ import annotations

import time

from launch_worker.errors import BrokerUnavailableError, ServerUnavailableError

#: What is raised while there is an outage.
AWAY = (BrokerUnavailableError, ServerUnavailableError)

#: Seconds of an outage that are outlasted, and between two tries.
_PATIENCE_S = 600.0
_PAUSE_S = 1.0


class Patience:
    """Decides whether one who waits until `deadline` (monotonic seconds) tries again."""

    def __init__(self, deadline: float | None) -> None:
        self._deadline = deadline
        #: Time of the outage's beginning, monotonic seconds; None for no outage.
        self._away_since: float | None = None

    def has_answer(self) -> None:
        """Note that there was an answer: an outage before it is over."""
        self._away_since = None

    def outlast(self, error: Exception) -> None:
        """Return after a pause; raises the error after ten minutes of outage, or after the deadline."""
        now = time.monotonic()
        self._away_since = self._away_since or now
        if now - self._away_since > _PATIENCE_S or (self._deadline is not None and now > self._deadline):
            raise error
        time.sleep(_PAUSE_S)
