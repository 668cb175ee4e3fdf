"""Handles an outage of Redis: one thread tries to reach it, all others wait for that thread, the log says so."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from launch_worker.errors import BrokerUnavailableError, RedisFullError
from launch_worker.untrusted.log_line import Seldom

log = logging.getLogger("launch_worker.outage")

T = TypeVar("T")

#: Seconds between two tries to reach Redis while it is away: first, and at most. A worker takes runs within 2 s of the
#: return of Redis; a thousand workers try some 900 times a second together.
_PROBE_S = 0.1
_PROBE_CAP_S = 1.5
#: Seconds between two tries of a call that Redis refuses although it answers the heartbeat, at most.
BACKOFF_CAP_S = 5.0
#: Seconds between two log lines about an outage that goes on.
_SAY_AGAIN_S = 30.0
#: Number of outages that are logged within `_SAY_AGAIN_S`; after that only those that last `_LASTING_S` are.
_SAY_AT_MOST = 4
_LASTING_S = 1.0
#: Seconds between two looks of a waiting thread whether the worker stops.
_TURN_S = 0.5


def backoff_s(failures: int, *, first_s: float = _PROBE_S, cap_s: float = BACKOFF_CAP_S) -> float:
    """Seconds to pause after a failure that followed this number of others.

    The pause doubles from `first_s` to `cap_s`, with jitter: all workers of a cluster lose Redis at the same instant.
    """
    return min(first_s * 2.0 ** min(failures, 20), cap_s) * random.uniform(0.5, 1.0)


class Outage:
    """One worker's view of whether Redis answers. Thread-safe.

    A thread that gets no answer notes it. From then on the worker's heartbeat alone tries to reach Redis, with growing
    pauses; all other threads wait until the heartbeat was answered. An outage is logged when it begins, every 30 s, and
    when it is over.
    """

    def __init__(self, stopping: threading.Event, *, meanwhile: str = "jobs go on, reports wait") -> None:
        """`meanwhile` says in the log what becomes of this process' work in an outage."""
        self._stopping = stopping
        self._meanwhile = meanwhile
        #: Monotonic times at which the latest outages were logged to begin.
        self._said_of: deque[float] = deque(maxlen=_SAY_AT_MOST)
        self._since: float | None = None
        self._said_at: float | None = None
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._over.set()
        self._probes = 0
        #: Number of outages since the process began, and the seconds of those that are over.
        self.count = 0
        self._over_s = 0.0
        self._say_full = Seldom(log.warning)
        #: Callback at the begin of an outage, which has the heartbeat try at once.
        self.on_begin: Callable[[], None] = lambda: None

    @property
    def is_on(self) -> bool:
        """Whether Redis is away."""
        return self._since is not None

    @property
    def away_s(self) -> float:
        """Seconds for which Redis was away since the process began."""
        since = self._since
        return self._over_s + (time.monotonic() - since if since is not None else 0.0)

    def note(self, error: BrokerUnavailableError) -> None:
        """Note that a call got no answer, or that Redis is full, which is no outage: it takes all but new runs."""
        if isinstance(error, RedisFullError):
            self._say_full("redis.full: no run is begun, all else goes on. %s", error)
            return
        with self._lock:
            now = time.monotonic()
            begins = self._since is None
            self._since = self._since or now
            self.count += begins
            self._over.clear()
            if self._is_to_be_said(now, now - self._since):
                if self._said_at is None:
                    self._said_of.append(now)
                self._said_at = now
                log.warning("redis.away for_s=%.0f: %s. %s", now - self._since, self._meanwhile, error)
        if begins:
            self.on_begin()

    def _is_to_be_said(self, now: float, lasts_s: float) -> bool:
        if self._said_at is not None:
            return now - self._said_at >= _SAY_AGAIN_S
        is_often = len(self._said_of) == _SAY_AT_MOST and now - self._said_of[0] < _SAY_AGAIN_S
        return not is_often or lasts_s >= _LASTING_S

    def over(self) -> None:
        """Note that a call was answered."""
        if self._since is None:
            return
        with self._lock:
            if self._since is not None:
                if self._said_at is not None:
                    log.warning("redis.back after_s=%.0f", time.monotonic() - self._since)
                self._over_s += time.monotonic() - self._since
                self._since = self._said_at = None
                self._probes = 0
                self._over.set()

    def probe_pause_s(self) -> float:
        """Seconds until the heartbeat's next try."""
        self._probes += 1
        return backoff_s(self._probes - 1, cap_s=_PROBE_CAP_S)

    def wait(self, *, timeout_s: float | None = None) -> bool:
        """Block until Redis answers the heartbeat, or the worker stops; returns False after the timeout."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._stopping.is_set():
            left_s = _TURN_S if until is None else min(_TURN_S, max(0.0, until - time.monotonic()))
            if self._over.wait(left_s):
                return True
            if until is not None and time.monotonic() >= until:
                return False
        return True

    def repeat(self, call: Callable[[], T], *, until: Callable[[], bool] = lambda: False) -> T:
        """Repeat an idempotent call until Redis has answered it, however long that takes.

        Raises BrokerUnavailableError only when the worker is stopping, or `until` says that the answer is not wanted
        any more.
        """
        failures = 0
        while True:
            try:
                answer = call()
            except BrokerUnavailableError as error:
                self.note(error)
                if self._stopping.is_set() or until():
                    raise
                # A pause for a call that is refused while the heartbeat is answered.
                self._stopping.wait(backoff_s(failures))
                failures += 1
                while not self.wait(timeout_s=_TURN_S) and not until():
                    pass
            else:
                self.over()
                return answer
