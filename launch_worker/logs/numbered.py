"""Reads an output by the numbers of its lines, and searches it for a text, as quickly as a page needs it."""

from __future__ import annotations

import bisect
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from launch_worker.logs.output import Output
from launch_worker.logs.parts import Part, after_breaks
from launch_worker.model.log_pieces import LOST, Gap

#: Characters of a line that are given at most.
LINE_CHARS = 4000
#: Bytes of a line that are looked at, for the last of the texts that a job wrote over each other.
_LINE_BYTES = 4 << 20
#: Numbers of found lines that are given at once.
_HITS = 1000
#: Escape sequences of colours, which stand in the middle of words.
_COLOURS = re.compile(rb"\x1b\[[0-9;:]*m")


class Stretch(NamedTuple):
    """Lines that are kept, without a gap between them."""

    #: Number of the first one, from 1, and how many there are; an unfinished last line is one.
    first: int
    lines: int
    #: Output that is missing before them.
    gap: Gap | None = None
    #: Places of its parts.
    begin: int = 0
    end: int = 0
    #: Bytes of its first part that belong to a line whose beginning is missing.
    torn: int = 0


class Line(NamedTuple):
    """One line, as it was last written."""

    number: int
    text: str
    #: Characters that were left out at its end, at least.
    more: int
    #: Milliseconds since 1970 at which it came, or, where `is_later`, at or after which it came.
    at_ms: int
    is_later: bool


@dataclass(frozen=True)
class Hits:
    """Lines that have a text in them."""

    #: Number of all of them, and of those before the first one of `lines`.
    count: int
    before: int
    #: Some of their numbers, in order, around the wanted place.
    lines: Sequence[int]


class Numbered:
    """An output by its lines. Only what is asked for is read, and what tells where a line begins after a gap."""

    def __init__(self, output: Output) -> None:
        self._output = output
        #: Whether the last line has no end yet.
        self.is_open = False
        self.stretches = self._find_stretches()

    @property
    def count(self) -> int:
        """The number of the last line."""
        return max((one.first + one.lines - 1 for one in self.stretches), default=0)

    def lines(self, first: int, count: int) -> list[Line]:
        """The lines with these numbers that are there to be read."""
        found: list[Line] = []
        for stretch in self.stretches:
            begin, end = max(first, stretch.first), min(first + count, stretch.first + stretch.lines)
            if begin < end:
                found += self._read(stretch, begin, end)
        return found

    def search(self, text: str, near: int) -> Hits:
        """The lines that have this text; with a capital letter in it capitals count. The hits around line `near`."""
        wanted, folds = text.encode(), text == text.lower()
        hits = array("Q")
        for stretch in self.stretches:
            if stretch.lines:
                self._search(stretch, wanted.lower() if folds else wanted, folds, hits)
        begin = max(0, bisect.bisect_left(hits, near) - _HITS // 2)
        return Hits(len(hits), begin, hits[begin : begin + _HITS].tolist())

    # -- where lines are -------------------------------------------------------------------------------------------

    def _find_stretches(self) -> list[Stretch]:
        output, parts = self._output, self._output.parts
        stretches: list[Stretch] = []
        end, end_line, begin, is_at_line = 0, 0, 0, True
        for at in range(len(parts) + 1):
            part = parts[at] if at < len(parts) else None
            if part is not None and at and part.offset == end and part.line == end_line:
                end, end_line = part.end, part.end_line
                continue
            if at:
                is_at_line = output.read_one(parts[at - 1]).endswith(b"\n")
                stretches.append(self._stretch(stretches, begin, at, end_line, is_at_line=is_at_line))
            begin = at
            if part is not None:
                end, end_line = part.end, part.end_line
        self.is_open = not is_at_line
        if output.end > end:
            stretches.append(Stretch(end_line + 1, 0, Gap(output.end - end, None, output.why_missing())))
        return stretches

    def _stretch(self, before: list[Stretch], begin: int, end: int, end_line: int, *, is_at_line: bool) -> Stretch:
        parts = self._output.parts
        first, last = parts[begin], parts[begin - 1] if begin else None
        number, torn, gap = first.line + 1, 0, None
        missing = first.offset - (last.end if last is not None else 0)
        if missing > 0:
            data = self._output.read_one(first)[: first.first_piece]
            newline = data.find(b"\n", 0, -1)
            # One line that came at once was mostly printed at once: it is shown though its beginning is not known.
            if newline >= 0:
                number, torn = number + 1, newline + 1
            known = number - 1 - (last.end_line if last is not None else 0) if first.is_line_sure else None
            is_late = first.block is None and (last is None or last.block is not None)
            gap = Gap(missing + torn, known, self._output.why_missing() if is_late else LOST)
        if before:
            # The beginning of a line before a gap has the number already.
            number = max(number, before[-1].first + before[-1].lines)
        count = end_line + (0 if is_at_line else 1) - number + 1
        return Stretch(number, max(0, count), gap, begin, end, torn)

    def _at(self, stretch: Stretch, number: int) -> tuple[int, int]:
        """The part in which a line of a stretch begins, or before, and the line breaks of the part before it."""
        parts, breaks = self._output.parts, number - 1
        at = bisect.bisect_left(parts, breaks, stretch.begin, stretch.end, key=lambda part: part.end_line)
        at = min(at, stretch.end - 1)
        return at, max(0, breaks - parts[at].line)

    # -- reading ---------------------------------------------------------------------------------------------------

    def _read(self, stretch: Stretch, begin: int, end: int) -> list[Line]:
        """The lines of a stretch from one number to before another one."""
        parts = self._output.parts
        at, breaks = self._at(stretch, begin)
        stop = parts[stretch.end - 1].end
        found: list[Line] = []
        growing, number = _Growing(), begin
        while at < stretch.end and number < end:
            for part, data in self._output.read(at):
                if part.offset >= stop:
                    at = stretch.end
                    break
                if isinstance(data, str):
                    # No line that is partly in it can be shown.
                    growing, breaks, number = _Growing(is_torn=True), 0, part.end_line + 1
                    continue
                place = stretch.torn if part.offset == parts[stretch.begin].offset else 0
                place, breaks = max(place, after_breaks(data, breaks)), 0
                while number < end and (newline := data.find(b"\n", place)) >= 0:
                    growing.add(data[place:newline], part, place)
                    found += growing.line(number)
                    growing, place, number = _Growing(), newline + 1, number + 1
                if number >= end:
                    return found
                if place < len(data):
                    growing.add(data[place:], part, place)
                if growing.is_long:
                    at = self._next_break(part.end, stretch)
                    growing.over += (parts[at].offset if at < stretch.end else stop) - part.end
                    break
            else:
                break
        if number < end:
            found += growing.line(number)
        return found

    def _next_break(self, offset: int, stretch: Stretch) -> int:
        """The first part of a stretch from an offset on that has a line break."""
        parts = self._output.parts
        at = bisect.bisect_left(parts, offset, stretch.begin, stretch.end, key=lambda part: part.offset)
        while at < stretch.end and not parts[at].lines:
            at += 1
        return at

    def _search(self, stretch: Stretch, wanted: bytes, folds: bool, hits: array[int]) -> None:
        parts = self._output.parts
        stop, number = parts[stretch.end - 1].end, stretch.first
        rest = b""
        for part, data in self._output.read(stretch.begin):
            if part.offset >= stop:
                break
            if isinstance(data, str):
                rest, number = b"", part.end_line + 1
                continue
            if part.offset == parts[stretch.begin].offset:
                data = data[stretch.torn :]
            text = rest + data
            if b"\x1b" in text:
                text = _COLOURS.sub(b"", text)
            if folds:
                text = text.lower()
            cut = text.rfind(b"\n") + 1
            rest = text[cut:]
            if cut:
                number = _hits(text[:cut], wanted, number, hits)
            if len(rest) > _LINE_BYTES:
                if wanted in rest and (not hits or hits[-1] != number):
                    hits.append(number)
                rest = rest[-len(wanted) :]
        if rest and wanted in rest and (not hits or hits[-1] != number):
            hits.append(number)


def _hits(text: bytes, wanted: bytes, number: int, hits: array[int]) -> int:
    """Add the numbers of the lines that have it; returns the number after the last one."""
    if wanted in text:
        lines = text.split(b"\n")
        found = [number + at for at, line in enumerate(lines) if wanted in line]
        hits.extend(found[1:] if hits and found[0] == hits[-1] else found)
        return number + len(lines) - 1
    return number + text.count(b"\n")


class _Growing:
    """A line of which a part was read."""

    def __init__(self, *, is_torn: bool = False) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._at_ms = -1
        self._is_later = False
        self._is_torn = is_torn
        #: Bytes of it that were not looked at.
        self.over = 0

    @property
    def is_long(self) -> bool:
        return self._size >= _LINE_BYTES

    def add(self, data: bytes, part: Part, place: int) -> None:
        if self._at_ms < 0:
            self._at_ms = part.times.at(part.offset + place) if part.times else part.at_ms
            self._is_later = part.block is not None and place > 0
        if self.is_long:
            self.over += len(data)
        else:
            self._pieces.append(data)
            self._size += len(data)

    def line(self, number: int) -> list[Line]:
        """The line; none where a part of it cannot be read, or nothing of it is there."""
        if self._is_torn or self._at_ms < 0:
            return []
        text = last_written(b"".join(self._pieces)).decode("utf-8", "replace")
        more = max(0, len(text) - LINE_CHARS) + self.over
        return [Line(number, text[:LINE_CHARS], more, self._at_ms, self._is_later)]


def last_written(line: bytes) -> bytes:
    """What a terminal shows of a line that was written over: the text after the last carriage return with any."""
    if b"\r" not in line:
        return line
    return next((text for text in reversed(line.split(b"\r")) if text), b"")
