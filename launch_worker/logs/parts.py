"""Lists the parts of an attempt's output that can be read as a whole: stored blocks, then what Redis has after them."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from launch_worker.logs.manifest import Manifest, Segment
from launch_worker.model.log_pieces import Piece
from launch_worker.store.logs import LogChunk, Times


@dataclass(frozen=True)
class Part:
    """Output that can be read as a whole. `line` counts the line breaks before it, `lines` those in it."""

    offset: int
    length: int
    line: int
    lines: int
    at_ms: int
    #: Whether the lines before it are all counted.
    is_line_sure: bool
    #: Segment and number of the block, or the bytes themselves.
    block: tuple[Segment, int] | None = None
    data: bytes = b""
    #: Times of what it was joined of.
    times: Times | None = None

    @property
    def end(self) -> int:
        return self.offset + self.length

    @property
    def end_line(self) -> int:
        return self.line + self.lines

    @property
    def first_piece(self) -> int:
        """Bytes of it that came first; all, where it was joined of nothing."""
        later = bisect.bisect_right(self.times.offsets, self.offset) if self.times is not None else 0
        return (
            self.times.offsets[later] - self.offset if self.times and later < len(self.times.offsets) else self.length
        )


def stored_parts(manifest: Manifest) -> list[Part]:
    """What is stored, in order."""
    parts: list[Part] = []
    for segment in manifest.segments:
        offset, line, is_sure = segment.offset, segment.line, not segment.is_line_unsure
        for number, block in enumerate(segment.blocks):
            parts.append(Part(offset, block.length, line, block.lines, block.at_ms, is_sure, (segment, number)))
            offset, line, is_sure = offset + block.length, line + block.lines, True
    return parts


def with_live_parts(parts: list[Part], chunks: Sequence[LogChunk]) -> list[Part]:
    """The stored parts, and what Redis has after them."""
    joined = list(parts)
    for chunk in chunks:
        end, end_line = (joined[-1].end, joined[-1].end_line) if joined else (0, 0)
        known = max(0, end - chunk.offset)
        data = chunk.data[known:]
        if not data:
            continue
        line = None if chunk.line is None else chunk.line + chunk.data.count(b"\n", 0, known)
        joined.append(
            Part(
                chunk.offset + known,
                len(data),
                end_line if line is None else max(line, end_line),
                data.count(b"\n"),
                chunk.at_ms,
                line is not None or chunk.offset + known == end,
                data=data,
                times=chunk.times,
            )
        )
    return joined


def first_lines(pieces: Iterator[Piece], count: int | None) -> Iterator[Piece]:
    """The first lines of pieces; all for None."""
    left = count
    for piece in pieces:
        if left is None:
            yield piece
            continue
        if left <= 0:
            return
        breaks = piece.data.count(b"\n")
        if breaks < left:
            left -= breaks
            yield piece
        else:
            yield piece._replace(data=piece.data[: after_breaks(piece.data, left)])
            return


def after_breaks(data: bytes, count: int) -> int:
    """The place after this number of line breaks; the end where there are fewer."""
    lines = data.split(b"\n", count)
    return len(data) - (len(lines[-1]) if len(lines) > count else 0)
