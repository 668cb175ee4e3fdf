"""Makes and checks run ids: short, URL-safe, sortable by time."""

from __future__ import annotations

import os
import re
import threading
import time

from launch_worker.errors import InputError

# Crockford's base 32, in lower case: no i, l, o, u, so that an id can be read aloud.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_TIME_CHARS = 9
_RANDOM_CHARS = 6
#: The highest value of the random part.
_LAST = (1 << 5 * _RANDOM_CHARS) - 1
RUN_ID = re.compile(rf"[{_ALPHABET}]{{{_TIME_CHARS + _RANDOM_CHARS}}}")
#: Id of a group as people write it: a for an array, b for a bulk submission, then the id of the first run.
GROUP_ID = re.compile(rf"[ab]{RUN_ID.pattern}")
ID_RULE = "an id has 15 characters, each a digit or a small letter other than i, l, o and u"
#: Every two of them, by their value: half as many look-ups.
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_lock = threading.Lock()
#: The latest id's milliseconds and what follows them.
_latest = (0, 0)


def new_run_id(now_s: float | None = None, *, room: int = 1) -> str:
    """A new id: 45 bits of this machine's milliseconds, then 30 bits by chance.

    Those of one process within one millisecond rise, so they are never the same: two in 2^30 are, of two processes. The
    time only makes ids sort roughly; order in listings is by the server's `created_at`. `room` is the number of ids of
    an array, of which this is the first: `later_run_id` makes the others.
    """
    global _latest
    millis = int((time.time() if now_s is None else now_s) * 1000)
    random = int.from_bytes(os.urandom(4), "big")
    with _lock:
        # Room to rise: for 16,000 of them.
        last = (_latest[1] + 1 + (random & 0x7FFF)) & _LAST if _latest[0] == millis else random >> 3
        _latest = (millis, last + room - 1)
    return (
        f"{_ALPHABET[millis >> 40 & 31]}{_PAIRS[millis >> 30 & 1023]}{_PAIRS[millis >> 20 & 1023]}"
        f"{_PAIRS[millis >> 10 & 1023]}{_PAIRS[millis & 1023]}{_random_part(last)}"
    )


def later_run_id(first: str, count: int) -> str:
    """The id of the run that is so many places behind the first one of its array."""
    last = 0
    for letter in first[_TIME_CHARS:]:
        last = last << 5 | _ALPHABET.index(letter)
    return first[:_TIME_CHARS] + _random_part(last + count & _LAST)


def _random_part(last: int) -> str:
    return f"{_PAIRS[last >> 20 & 1023]}{_PAIRS[last >> 10 & 1023]}{_PAIRS[last & 1023]}"


def check_run_id(run_id: str) -> str:
    """The id, for one that somebody chose for a run. Raises InputError."""
    if not isinstance(run_id, str) or not RUN_ID.fullmatch(run_id):
        raise InputError(f"run id {str(run_id)[:40]!r} is not allowed: {ID_RULE}; for any other text use unique")
    return run_id


def unique_run_id(key: str, *, user: str, project: str, index: int | None = None) -> str:
    """The id of the one run that a user submits to a project with a key; `index`: of its array.

    The project is a part of it: who submits there sees the run, so that no answer tells of a run that is not seen.
    """
    # Imported by those who need it: a person waits for `launch-submit`.
    import hashlib

    text = f"{user}\0{key}\0{'' if index is None else index}\0{project}"
    bits = int.from_bytes(hashlib.sha256(text.encode()).digest()[:10], "big")
    return "".join(_ALPHABET[bits >> 5 * at & 31] for at in range(_TIME_CHARS + _RANDOM_CHARS))
