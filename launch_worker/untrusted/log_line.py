"""Keeps a log message on one line: a name or reason of others can neither forge a line nor steer a terminal."""

from __future__ import annotations

import codecs
import logging
import threading
import time
from collections.abc import Callable

_MAX_CHARS = 4000
_SAY_AGAIN_S = 30.0
# Python reads the codec's file at its first use, which fails where no descriptor is left: then there is much to log.
codecs.lookup("unicode_escape")


def one_line(text: str) -> str:
    """The text with every character escaped that is not printable, and bounded."""
    if len(text) > _MAX_CHARS:
        text = f"{text[:_MAX_CHARS]} … ({len(text):,} characters)"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class OneLine(logging.Filter):
    """For the handlers of a log, so that no caller can forget it. A traceback keeps its lines, which are indented."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        line = one_line(message)
        if line is not message:
            record.msg, record.args = line, ()
        if record.exc_info and not record.exc_text:
            text = logging.Formatter().formatException(record.exc_info)
            record.exc_text = "\n".join(f"  {one_line(part)}" for part in text.split("\n"))
        return True


class Seldom:
    """Logs a line that may come any number of times: at once, then at most every 30 s, with the number in between.

    Thread-safe. Each kind of line has one of its own.
    """

    def __init__(self, log: Callable[..., None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._said_at: float | None = None
        self._unsaid = 0
        self._lock = threading.Lock()

    def __call__(self, message: str, *args: object) -> None:
        with self._lock:
            now = self._clock()
            if self._said_at is not None and now - self._said_at < _SAY_AGAIN_S:
                self._unsaid += 1
                return
            more = f" ({self._unsaid:,} more since the last such line)" if self._unsaid else ""
            self._said_at, self._unsaid = now, 0
        self._log(f"{message}%s", *args, more)
