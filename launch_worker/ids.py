"""Run ids: short, URL-safe, sortable by time."""

from __future__ import annotations

import os
import re
import threading
import time

# Crockford's base 32, in lower case: no i, l, o, u, so that an id can be read aloud.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_TIME_CHARS = 9
_RANDOM_CHARS = 6
RUN_ID = re.compile(rf"[{_ALPHABET}]{{{_TIME_CHARS + _RANDOM_CHARS}}}")


#: Every two of them, by their value: half as many look-ups.
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_lock = threading.Lock()
#: The latest id's milliseconds and what follows them.
_latest = (0, 0)


def new_run_id(now_s: float | None = None) -> str:
    """A new id: 45 bits of this machine's milliseconds, then 30 bits by chance.

    Those of one process within one millisecond rise, so they are never the same: two in 2^30 are, of two processes. The
    time only makes ids sort roughly; order in listings is by the server's `created_at`.
    """
    global _latest
    millis = int((time.time() if now_s is None else now_s) * 1000)
    random = int.from_bytes(os.urandom(4), "big")
    with _lock:
        # Room to rise: for 16,000 of them.
        last = (_latest[1] + 1 + (random & 0x7FFF)) & 0x3FFFFFFF if _latest[0] == millis else random >> 3
        _latest = (millis, last)
    return (
        f"{_ALPHABET[millis >> 40 & 31]}{_PAIRS[millis >> 30 & 1023]}{_PAIRS[millis >> 20 & 1023]}"
        f"{_PAIRS[millis >> 10 & 1023]}{_PAIRS[millis & 1023]}"
        f"{_PAIRS[last >> 20 & 1023]}{_PAIRS[last >> 10 & 1023]}{_PAIRS[last & 1023]}"
    )
