"""What a client of the system has to do at which time; what was not taken is tried again until it is."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable

from launch_worker.clock import boot_time_s
from launch_worker.errors import BrokerUnavailableError, ServerUnavailableError

_AGAIN_S = 0.3


class Agenda:
    """Does what is due, in order."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, when: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._due, (when, self._count, action))

    def run(self) -> None:
        """Return when nothing is left to do."""
        while self._due:
            when, _, action = heapq.heappop(self._due)
            time.sleep(max(0.0, when - boot_time_s()))
            try:
                action()
            except (BrokerUnavailableError, ServerUnavailableError):
                self.at(boot_time_s() + _AGAIN_S, action)
