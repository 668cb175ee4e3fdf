"""Reads an attempt's output as one stream, from a line, a time or its end on, and says how much is missing where."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from launch_worker.logs.parts import Part, after_breaks
from launch_worker.logs.search import Search
from launch_worker.logs.stored import BLOCKS_AT_ONCE, StoredLogs
from launch_worker.model.log_pieces import LOST, Gap, Piece


class Output:
    """One attempt's output. Each method reads only what it must, and yields pieces that begin at a line."""

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        stored: StoredLogs | None = None,
        end: int = 0,
        end_ms: int | None = None,
        why_missing: Callable[[], str] = lambda: LOST,
        read_again: Callable[[], Sequence[Part]] = lambda: (),
    ) -> None:
        """`end`: bytes of the output that are known of, kept or not; `end_ms`: time of the last of them.

        `why_missing` says where output is that comes after all that is stored, and is not in Redis. `read_again` gives
        the parts as they are now, where an object has gone because its output is in another one by now.
        """
        #: What is kept, in order.
        self.parts = parts
        self._stored = stored
        self._end = max(end, parts[-1].end if parts else 0)
        self._end_ms = end_ms
        #: Says where output is that comes after all that is stored.
        self.why_missing = why_missing
        self._read_again = read_again

    @property
    def end(self) -> int:
        """The number of bytes that are known of."""
        return self._end

    @property
    def lines(self) -> int:
        """The number of lines that are known of, an unfinished last one included."""
        if not self.parts:
            return 0
        last = self.parts[-1]
        return last.end_line + (0 if self.read_one(last).endswith(b"\n") else 1)

    @property
    def missing(self) -> int:
        """The number of bytes that are not there to be read."""
        return self._end - sum(part.length for part in self.parts)

    def all(self) -> Iterator[Piece]:
        """All that is kept."""
        return self._pieces(0, 0, 0)

    def from_line(self, number: int) -> Iterator[Piece]:
        """The lines from this number on, counted from 1."""
        breaks = max(0, number - 1)
        if breaks == 0:
            return self.all()
        # The part that has the line break before the line, or the first one after a gap in which it is.
        at = bisect.bisect_left(self.parts, breaks, key=lambda part: part.end_line)
        if at == len(self.parts):
            return iter(())
        part = self.parts[at]
        if part.line >= breaks:
            return self._pieces(at, 0, part.line)
        place = after_breaks(self.read_one(part), breaks - part.line)
        return self._pieces(at, place, breaks, skips_gap=True)

    def tail(self, count: int) -> Iterator[Piece]:
        """The last lines. Output that is missing before them is not mentioned."""
        if count <= 0 or not self.parts:
            return iter(())
        # The last line break begins no line.
        breaks = -1 if self.read_one(self.parts[-1]).endswith(b"\n") else 0
        for at in range(len(self.parts) - 1, -1, -1):
            part = self.parts[at]
            if breaks + part.lines >= count:
                data = self.read_one(part)
                place = len(data)
                for _ in range(count - breaks):
                    place = max(0, data.rfind(b"\n", 0, place))
                return self._pieces(at, place + 1, part.line + data.count(b"\n", 0, place + 1), skips_gap=True)
            breaks += part.lines
        return self.all()

    def since(self, at_ms: int) -> Iterator[Piece]:
        """The output from a time on, from the beginning of a line; stored output has the times of its blocks."""
        if self._end_ms is not None and at_ms > self._end_ms:
            return iter(())
        at = bisect.bisect_left(self.parts, at_ms, key=lambda part: part.at_ms)
        if at and self.parts[at - 1].block is not None:
            at -= 1  # a block has the time of its first output, and may have later one
        if at == len(self.parts):
            return iter(())
        part = self.parts[at]
        is_torn = at > 0 and self.parts[at - 1].end == part.offset
        if is_torn and not self.read_one(self.parts[at - 1]).endswith(b"\n"):
            return self.from_line(part.line + 1)
        return self._pieces(at, 0, part.line, skips_gap=True)

    @staticmethod
    def grep(pattern: str, pieces: Iterator[Piece]) -> Iterator[Piece]:
        """The lines of these pieces that have a pattern in them. Raises InputError for one that cannot be searched."""
        return Search(pattern).lines(pieces)

    # -- reading ---------------------------------------------------------------------------------------------------

    def _pieces(self, first: int, place: int, line: int, *, skips_gap: bool = False) -> Iterator[Piece]:
        """The output from a place in a part on; output that is missing before that is left out with `skips_gap`."""
        before = self.parts[first - 1] if first else None
        end, end_line, is_at_line = (0, 0, True) if before is None else (before.end, before.end_line, True)
        is_torn, damage = False, ""
        if skips_gap:
            is_torn = place == 0 and self.parts[first].offset > end
            end, end_line = self.parts[first].offset, line
        for part, data in self.read(first):
            if isinstance(data, str):
                damage = data
                continue
            shown, number, gap = data[place:], part.line + 1, None
            if place:
                number = line + 1
            elif part.offset > end or is_torn:
                dropped = _torn(data, is_at_line=is_at_line)
                lines = data.count(b"\n", 0, dropped)
                shown, number = data[dropped:], part.line + lines + 1
                if part.offset > end:
                    known = part.line + lines - end_line if part.is_line_sure else None
                    is_late = part.block is None and (before is None or before.block is not None)
                    gap = Gap(part.offset + dropped - end, known, damage or (self.why_missing() if is_late else LOST))
            yield Piece(shown, number, gap)
            before, place, is_torn, damage = part, 0, False, ""
            end, end_line = part.end, part.end_line
            is_at_line = shown.endswith(b"\n") if shown else is_at_line
        if self._end > end:
            yield Piece(b"", end_line + 1, Gap(self._end - end, None, damage or self.why_missing()))

    def read(self, first: int) -> Iterator[tuple[Part, bytes | str]]:
        """The parts from one on, each with its bytes, or with a phrase that says why it cannot be read.

        Blocks that follow each other are read together, but for the first one, which may be all that is wanted.
        """
        parts, at, together, has_read_again = self.parts, first, 1, False
        while at < len(parts):
            part = parts[at]
            if part.block is None:
                yield part, part.data
                at += 1
                continue
            segment, number = part.block
            assert self._stored is not None
            try:
                for data in self._stored.blocks(segment, number, number + together):
                    yield parts[at], data
                    at += 1
                together = min(2 * together, BLOCKS_AT_ONCE)
                has_read_again = False
                continue
            except FileNotFoundError:
                damage = f"cannot be read: {segment.name} is not in the store any more"
                if not has_read_again and (fresh := self._read_again()):
                    # From the same place on, which may be inside of a block by now.
                    has_read_again, parts = True, fresh
                    at = bisect.bisect_right(parts, part.offset, key=lambda other: other.end)
                    if at < len(parts) and parts[at].offset < part.offset:
                        yield self._rest_of(parts[at], part)
                        at += 1
                    continue
            except ValueError as error:
                damage = f"cannot be read: the stored {segment.name} is damaged ({error})"
            if together > 1:
                together = 1
                continue
            yield part, damage
            at += 1

    def _rest_of(self, part: Part, wanted: Part) -> tuple[Part, bytes]:
        """The part from the place of a wanted one on."""
        data = self.read_one(part)[wanted.offset - part.offset :]
        rest = replace(part, offset=wanted.offset, length=len(data), line=wanted.line, lines=data.count(b"\n"))
        return rest, data

    def read_one(self, part: Part) -> bytes:
        """The bytes of one part; none where it is damaged."""
        if part.block is None:
            return part.data
        assert self._stored is not None
        segment, number = part.block
        try:
            return next(self._stored.blocks(segment, number, number + 1))
        except (ValueError, FileNotFoundError):
            return b""


def _torn(data: bytes, *, is_at_line: bool) -> int:
    """The number of first bytes that belong to a line or character whose beginning is missing."""
    newline = data.find(b"\n", 0, -1)
    if newline >= 0:
        # After the shown beginning of a torn line, the first line is that line's end.
        return newline + 1 if is_at_line else newline
    return next((at for at, byte in enumerate(data[:4]) if not 0x80 <= byte < 0xC0), 0)
