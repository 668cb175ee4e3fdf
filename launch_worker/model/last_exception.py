"""Finds the exception with which a program of Python ended, in the last lines of its output."""

from __future__ import annotations

import re
from collections.abc import Collection

from launch_worker.untrusted.text import clean, plain_line

_BEGIN = "Traceback (most recent call last):"
_IN_TRACE = re.compile(rf"{re.escape(_BEGIN)}|  File \".*\", line \d+")
#: The last line of a traceback: the exception, and its text.
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(?::.*)?")
#: Words that launchers of several processes put before each line: `[rank0]: `.
_RANK = re.compile(r"\[rank\d+\]: ?")
_LOGIN = re.compile(r"(?<=://)[^\s/@]+@")
#: Lines that may follow the exception: more of its text, and words of a program's end.
_MOST_AFTER = 20
#: Characters of an exception that are shown.
_MOST_CHARS = 300
#: Characters of the shortest secret that is looked for.
_LEAST_SECRET = 5
_MASK = "***"


def last_exception(output: str, *, secrets: Collection[str] = ()) -> str:
    """The exception in the last traceback of Python at the end of an output, as one line; '' for none.

    Logins of URLs, and these `secrets`, are masked.
    """
    begin = output.rfind(_BEGIN)
    # The beginning of a long traceback may be before the last lines of an output.
    begin = begin if begin >= 0 else output.find('  File "')
    if begin < 0:
        return ""
    found, is_inside, after = "", False, 0
    for raw in output[output.rfind("\n", 0, begin) + 1 :].splitlines():
        line = plain_line(_RANK.sub("", raw, count=1))
        after += 1
        if _IN_TRACE.match(line):
            is_inside = True
        elif is_inside and line.strip() and not line.startswith((" ", "\t")):
            is_inside = False
            if _EXCEPTION.fullmatch(line):
                found, after = line, 0
    if not found or after > _MOST_AFTER:
        return ""
    found = _LOGIN.sub(f"{_MASK}@", found)
    # Of a value of several lines each may stand in it, and a `repr` has its line breaks and quotes escaped.
    parts = {part for secret in secrets for part in (secret, repr(secret)[1:-1], *secret.splitlines())}
    for part in sorted(parts, key=len, reverse=True):
        if len(part) >= _LEAST_SECRET:
            found = found.replace(part, _MASK)
    found = clean(found).rstrip()
    return found if len(found) <= _MOST_CHARS else f"{found[: _MOST_CHARS - 1]}…"
