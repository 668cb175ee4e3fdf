"""Keeps values for a second that many open pages need at once, so that they are made once for all of them."""

from __future__ import annotations

import contextlib
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
        #: Held by who makes the value.
        self.lock = threading.Lock()
        #: Time at which the value began to be made, of the monotonic clock, and the value.
        self.kept: tuple[float, Any] = (float("-inf"), None)


class Kept:
    """Values by key, none older than its caller allows. Thread-safe: who comes while one is made waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: OrderedDict[Hashable, _Place] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T], *, most_s: float = 1.0, late_s: float = 0.0) -> T:
        """The value of this key, made anew when it is older than `most_s` seconds. An error of `make` is not kept.

        A value that is not yet older than `late_s` seconds is given at once, and made anew behind the caller's back.
        """
        asked_at = time.monotonic()
        with self._lock:
            place = self._places.setdefault(key, _Place())
            self._places.move_to_end(key)
            while len(self._places) > _MOST:
                self._places.popitem(last=False)
        made_at, value = place.kept
        if made_at < asked_at - most_s:
            if made_at >= asked_at - late_s:
                if place.lock.acquire(blocking=False):
                    threading.Thread(target=_make_late, args=(place, make), name="kept", daemon=True).start()
            else:
                with place.lock:
                    made_at, value = place.kept
                    if made_at < asked_at - most_s:
                        value = _make(place, make)
        kept: T = value
        return kept


def _make(place: _Place, make: Callable[[], T]) -> T:
    # What begins to be made now is as of now at the earliest.
    began_at = time.monotonic()
    value = make()
    place.kept = (began_at, value)
    return value


def _make_late(place: _Place, make: Callable[[], object]) -> None:
    try:
        # An error is for the next caller who waits for the value.
        with contextlib.suppress(Exception):
            _make(place, make)
    finally:
        place.lock.release()
