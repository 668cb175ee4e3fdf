"""Shows what a job printed: its bytes in a pipe, harmless text with its colours on a terminal."""

from __future__ import annotations

import re
import sys
from codecs import getincrementaldecoder

from launch_worker.terminal.say import has_colours

#: Sequences of a job that reach a terminal: colours, and a line's end as on Windows.
_ALLOWED = re.compile(r"\x1b\[[0-9;:]{0,60}m|\r\n|[^\n\t\x20-\x7e]")
#: Beginning of an escape that could be a colour, or of a line's end.
_UNFINISHED = re.compile(r"(\x1b(\[[0-9;:]{0,60})?|\r)$")
#: Characters that pass: blanks, and joiners within letters and emoji.
_HARMLESS = "\xa0\u200c\u200d\u202f\u3000"


class JobOutput:
    """A job's bytes on standard output: as they are in a pipe or with `raw`, harmless on a terminal.

    On a terminal colours pass where they are wanted, and every other control character is shown as what it is: `^G`,
    `\\x9b`, `\\u202e`. A carriage return is `^M` and a new line, so that no line is written over.
    """

    def __init__(self, *, raw: bool = False) -> None:
        self._is_shown = not raw and sys.stdout.isatty()
        self._decoder = getincrementaldecoder("utf-8")("backslashreplace")
        self._rest = ""
        self._has_colour = False
        self._takes_colours = has_colours(sys.stdout)

    def __enter__(self) -> JobOutput:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def write(self, data: bytes) -> None:
        if self._is_shown:
            text = self._rest + self._decoder.decode(data)
            unfinished = _UNFINISHED.search(text)
            self._rest = unfinished[0] if unfinished else ""
            data = self._shown(text[: len(text) - len(self._rest)])
        self._put(data)

    def end(self) -> None:
        """Print the rest, and end the colours."""
        if self._is_shown:
            left = self._shown(self._rest + self._decoder.decode(b"", True))
            self._rest = ""
            self._put(left + (b"\x1b[0m" if self._has_colour else b""))
            self._has_colour = False

    def _shown(self, text: str) -> bytes:
        return _ALLOWED.sub(self._one, text).encode("utf-8", "backslashreplace")

    def _one(self, match: re.Match[str]) -> str:
        found = match[0]
        if found == "\r\n":
            return "\n"
        if len(found) > 1:
            if not self._takes_colours:
                return ""
            self._has_colour = True
            return found
        if found.isprintable() or found in _HARMLESS:
            return found
        if found == "\r":
            return "^M\n"
        if found < " " or found == "\x7f":
            return f"^{chr(ord(found) ^ 0x40)}"
        return found.encode("unicode_escape").decode()

    @staticmethod
    def _put(data: bytes) -> None:
        if data:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
