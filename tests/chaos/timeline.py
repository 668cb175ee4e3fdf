"""What has to be done at which time."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable

from launch_worker.clock import boot_time_s


class Timeline:
    """Actions in the order of their times (seconds since boot)."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._due)

    def at(self, when: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._due, (when, self._count, action))

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        self.at(boot_time_s() + seconds, action)

    def do_due(self) -> None:
        while self._due and self._due[0][0] <= boot_time_s():
            heapq.heappop(self._due)[2]()

    @staticmethod
    def sleep(seconds: float) -> None:
        time.sleep(seconds)
