"""Log messages of one line each: what others wrote (names, reasons) can neither forge a line nor steer a terminal."""

from __future__ import annotations

import logging

_MAX_CHARS = 4000


def one_line(text: str) -> str:
    """The text with every character escaped that is not printable, and bounded."""
    if len(text) > _MAX_CHARS:
        text = f"{text[:_MAX_CHARS]} … ({len(text):,} characters)"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class OneLine(logging.Filter):
    """For the handlers of a log, so that no caller can forget it. A traceback keeps its lines."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        line = one_line(message)
        if line is not message:
            record.msg, record.args = line, ()
        if record.exc_info and not record.exc_text:
            text = logging.Formatter().formatException(record.exc_info)
            record.exc_text = "\n".join(one_line(part) for part in text.split("\n"))
        return True
