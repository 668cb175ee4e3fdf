"""Redis is away: say so, go on, and repeat what has to be told until it is back."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from launch_worker.errors import BrokerUnavailableError

log = logging.getLogger("launch_worker.outage")

T = TypeVar("T")

BACKOFF_CAP_S = 5.0
_SAY_AGAIN_S = 30.0


class Outage:
    """One worker's view of whether Redis answers. Said once, again every 30 s, and when it is over. Thread-safe."""

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping
        self._since: float | None = None
        self._said_at: float | None = None
        self._lock = threading.Lock()

    @property
    def is_on(self) -> bool:
        return self._since is not None

    def note(self, error: BrokerUnavailableError) -> None:
        with self._lock:
            now = time.monotonic()
            self._since = self._since or now
            if self._said_at is None or now - self._said_at >= _SAY_AGAIN_S:
                self._said_at = now
                log.warning("redis.away for_s=%.0f: jobs go on, reports wait. %s", now - self._since, error)

    def over(self) -> None:
        if self._since is None:
            return
        with self._lock:
            if self._since is not None:
                log.warning("redis.back after_s=%.0f", time.monotonic() - self._since)
                self._since = self._said_at = None

    def repeat(self, call: Callable[[], T]) -> T:
        """Repeat an idempotent call until Redis has answered it, however long that takes.

        Raises BrokerUnavailableError only when the worker is stopping.
        """
        pause_s = 0.1
        while True:
            try:
                answer = call()
            except BrokerUnavailableError as error:
                self.note(error)
                if self._stopping.is_set():
                    raise
                # Jitter: all workers of a cluster lost the same Redis at the same instant.
                self._stopping.wait(pause_s * random.uniform(0.5, 1.0))
                pause_s = min(2 * pause_s, BACKOFF_CAP_S)
            else:
                self.over()
                return answer
