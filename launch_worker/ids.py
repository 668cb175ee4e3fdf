"""Run ids: short, URL-safe, sortable by time."""

from __future__ import annotations

import re
import secrets
import time

# Crockford's base 32, in lower case: no i, l, o, u, so that an id can be read aloud.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_TIME_CHARS = 9
_RANDOM_CHARS = 6
RUN_ID = re.compile(rf"[{_ALPHABET}]{{{_TIME_CHARS + _RANDOM_CHARS}}}")


def new_run_id(now_s: float | None = None) -> str:
    """A new id: 45 bits of this machine's milliseconds, then 30 random bits.

    The time only makes ids sort roughly; order in listings is by the server's `created_at`.
    """
    millis = int((time.time() if now_s is None else now_s) * 1000)
    number = (millis << (5 * _RANDOM_CHARS)) | secrets.randbits(5 * _RANDOM_CHARS)
    chars = [_ALPHABET[(number >> (5 * place)) & 31] for place in range(_TIME_CHARS + _RANDOM_CHARS)]
    return "".join(reversed(chars))
