"""Joins the kept pieces of an output to a text that begins at a line, and says how much is missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Gap:
    """Output that cannot be read."""

    #: Number of its bytes, and of its lines; None where that is not known.
    bytes: int
    lines: int | None
    #: A phrase that says where it is, or that it is nowhere.
    why: str

    def __str__(self) -> str:
        lines = "" if not self.lines else f" ({self.lines:,} {'line' if self.lines == 1 else 'lines'})"
        return f"… {self.bytes:,} bytes{lines} of output before this {self.why}"


LOST = "are kept nowhere"


class Piece(NamedTuple):
    """Some output, after the output that is missing before it."""

    data: bytes
    #: Number of the line in which it begins, from 1; lines of a gap that nobody counted are left out.
    line: int
    gap: Gap | None = None


@dataclass(frozen=True)
class Log:
    """The kept part of an output. After missing output it begins at a line, unless the next line is far away."""

    data: bytes
    #: Number of bytes of the output that are not in it.
    missing: int = 0
    #: Place at which `Run.follow(after=…)` goes on.
    attempt: int = 0
    entry: str = "-"
    end: int = 0

    @property
    def text(self) -> str:
        """The data as text; bytes that are not UTF-8 are replaced."""
        return self.data.decode("utf-8", "replace")


class Joiner:
    """Puts the pieces of an output together, each with the number of bytes that were printed before it."""

    def __init__(self, *, end: int = 0, is_at_line: bool = True) -> None:
        #: Position of the next piece if nothing is missing.
        self.end = end
        self._is_at_line = is_at_line

    def add(self, offset: int, data: bytes) -> tuple[bytes, int]:
        """The part of the next piece to show, and the number of bytes that are missing before it."""
        known = max(0, self.end - offset)
        offset, data = offset + known, data[known:]
        if not data:
            return b"", 0
        missing = offset - self.end
        dropped = self._torn(data) if missing else 0
        self.end = offset + len(data)
        shown = data[dropped:]
        if shown:
            self._is_at_line = shown.endswith(b"\n")
        return shown, missing + dropped

    def _torn(self, data: bytes) -> int:
        """The number of first bytes that belong to a line or character whose beginning is missing."""
        # A piece without a line break inside was printed at once: it is mostly whole, and all that is left.
        newline = data.find(b"\n", 0, -1)
        if newline >= 0:
            # After the shown beginning of a torn line, the first line is that line's end.
            return newline + 1 if self._is_at_line else newline
        return next((at for at, byte in enumerate(data[:4]) if not 0x80 <= byte < 0xC0), 0)


def lines_of(data: bytes) -> list[bytes]:
    """The lines of a text; a carriage return alone ends none."""
    lines = data.split(b"\n")
    return [line + b"\n" for line in lines[:-1]] + lines[-1:] * bool(lines[-1])
