"""Says which parts of an attempt's output are stored where: blocks in segments, segments in objects. Pure values.

A manifest is one JSON object beside the segments that it names, and is written after them:

    RUN/ATTEMPT/manifest.json
    RUN/ATTEMPT/NAME.zst        zstd frames, one a block, one after the other

A segment has blocks that follow each other in the output; output that is missing between two segments is kept nowhere.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from launch_worker.untrusted.text import read_json

#: Bytes of output in a block at most; a reader decompresses a block as a whole.
BLOCK_BYTES = 512 << 10
#: Bytes of output in a segment at most: what is compressed and sent at once, so what a worker holds in memory.
SEGMENT_BYTES = 8 << 20
#: Bytes of a manifest at most: a block takes about 30.
MAX_BYTES = 64 << 20
_OBJECT = re.compile(r"(?:[0-9a-z]{15}/[0-9]{1,9}|packs)/[0-9A-Za-z-]{1,80}\.zst")


class Block(NamedTuple):
    """Output that is compressed as one frame."""

    #: Bytes of output.
    length: int
    #: Bytes of its frame.
    stored: int
    #: Number of line breaks in it.
    lines: int
    #: Time at which its first output was seen, milliseconds since 1970 by Redis' clock.
    at_ms: int


@dataclass(frozen=True)
class Segment:
    """Blocks that follow each other, in one object."""

    #: Name of the object, and place of the first block in it.
    name: str
    place: int
    #: Number of bytes of output before it.
    offset: int
    #: Number of line breaks before it, as far as they are known.
    line: int
    blocks: tuple[Block, ...]
    #: Whether an unknown number of lines is missing before it.
    is_line_unsure: bool = False

    @property
    def length(self) -> int:
        return sum(block.length for block in self.blocks)

    @property
    def stored(self) -> int:
        return sum(block.stored for block in self.blocks)

    @property
    def lines(self) -> int:
        return sum(block.lines for block in self.blocks)

    @property
    def end(self) -> int:
        return self.offset + self.length

    @property
    def end_line(self) -> int:
        return self.line + self.lines


@dataclass(frozen=True)
class Manifest:
    """What is stored of one attempt's output."""

    run_id: str
    attempt: int
    #: Fencing token of the attempt: a manifest of another run of the same id has another one.
    token: int
    segments: tuple[Segment, ...] = field(default=())
    #: Bytes, and line breaks as far as they are known, of the output that was looked at: stored or lost.
    end: int = 0
    end_line: int = 0
    #: Time at which the last of it was seen, milliseconds since 1970 by Redis' clock.
    end_ms: int = 0
    #: Whether nothing comes after `end`.
    is_complete: bool = False

    @property
    def kept_bytes(self) -> int:
        return sum(segment.length for segment in self.segments)

    def with_segment(self, segment: Segment, *, end_ms: int, instead_of_last: bool = False) -> Manifest:
        before = self.segments[:-1] if instead_of_last else self.segments
        return replace(self, segments=(*before, segment), end=segment.end, end_line=segment.end_line, end_ms=end_ms)

    def without_middle(self, keep_bytes: int) -> Manifest:
        """Drop segments from the middle until at most `keep_bytes` are kept, or the newest segment alone is left."""
        segments, kept = list(self.segments), self.kept_bytes
        first = next((at for at, segment in enumerate(segments) if segment.end > keep_bytes // 2), len(segments))
        while kept > keep_bytes and first < len(segments) - 1:
            kept -= segments.pop(first).length
        return replace(self, segments=tuple(segments))

    @property
    def names(self) -> set[str]:
        """The names of the objects that it refers to."""
        return {segment.name for segment in self.segments}

    def to_json(self) -> bytes:
        segments = [
            [segment.name, segment.place, segment.offset, segment.line, int(segment.is_line_unsure), segment.blocks]
            for segment in self.segments
        ]
        known = {"version": 1, "run": self.run_id, "attempt": self.attempt, "token": self.token, "end": self.end}
        known |= {"end_line": self.end_line, "end_ms": self.end_ms, "complete": self.is_complete, "segments": segments}
        return json.dumps(known, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Manifest:
        """Read what anybody may have written. Raises ValueError."""
        known = read_json(text, max_chars=MAX_BYTES)
        try:
            segments = tuple(_segment(*segment) for segment in known["segments"])
            manifest = cls(
                str(known["run"]),
                _count(known["attempt"]),
                _count(known["token"]),
                segments,
                _count(known["end"]),
                _count(known["end_line"]),
                _count(known["end_ms"]),
                known["complete"] is True,
            )
        except (TypeError, KeyError) as error:
            raise ValueError(f"it is no manifest: {error!r}") from None
        end = 0
        for segment in segments:
            if segment.offset < end:
                raise ValueError("its segments overlap")
            end = segment.end
        return manifest


def _segment(name: Any, place: Any, offset: Any, line: Any, is_line_unsure: Any, blocks: Any) -> Segment:
    if not isinstance(name, str) or not _OBJECT.fullmatch(name):
        raise ValueError(f"no object is called {str(name)[:100]!r}")
    found = tuple(Block(*map(_count, block)) for block in blocks)
    if any(block.length > BLOCK_BYTES or block.stored > 2 * BLOCK_BYTES for block in found):
        raise ValueError("a block is too large")
    return Segment(name, _count(place), _count(offset), _count(line), found, bool(is_line_unsure))


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError(f"{str(value)[:40]!r} is no count")
    return value
