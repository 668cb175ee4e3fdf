"""Keeps values for a second that many open pages need at once, so that they are made once for all of them."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")
#: Number of values that are kept.
_MOST = 500


class _Place:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.made_at = float("-inf")
        self.value: Any = None


class Kept:
    """Values by key, none older than its caller allows. Thread-safe: who comes while one is made waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: OrderedDict[Hashable, _Place] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T], *, most_s: float = 1.0) -> T:
        """The value of this key, made anew when it is older than `most_s` seconds. An error of `make` is kept not."""
        asked_at = time.monotonic()
        with self._lock:
            place = self._places.setdefault(key, _Place())
            self._places.move_to_end(key)
            while len(self._places) > _MOST:
                self._places.popitem(last=False)
        with place.lock:
            if place.made_at < asked_at - most_s:
                # What begins to be made now is as of now at the earliest.
                began_at = time.monotonic()
                place.value = make()
                place.made_at = began_at
            value: T = place.value
            return value
