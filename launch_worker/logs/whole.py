"""Stores one attempt's whole output, piece by piece, from the file that is its buffer."""

from __future__ import annotations

import bisect
import contextlib
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from launch_worker.errors import DamagedError
from launch_worker.logs import zstd
from launch_worker.logs.manifest import BLOCK_BYTES, SEGMENT_BYTES, Block, Manifest, Segment
from launch_worker.logs.output_reader import OutputReader
from launch_worker.logs.stored import StoredLogs

#: Seconds after which new output is stored, however little it is.
STORE_AFTER_S = 30.0
#: Seconds between two writes of a running attempt's last segment, which grows until it is full.
_GROW_EVERY_S = 10.0
#: Seconds between two manifests while segment follows segment.
_MANIFEST_EVERY_S = 1.0
#: Bytes, and milliseconds, up to which the small blocks of a slow job become one.
_SMALL_BYTES, _SMALL_MS = 32 << 10, 600_000
#: Bytes that are read at most to find on which line the output goes on after lost output.
_COUNT_BYTES = 4 << 20


class Mark(NamedTuple):
    """A place in an output, as the log shipper passed it."""

    offset: int
    #: Number of line breaks before it.
    line: int
    #: Milliseconds since 1970 by Redis' clock.
    at_ms: int


@dataclass(frozen=True)
class Bounds:
    """How much is kept of each attempt."""

    #: Bytes of output at most; the middle of a longer one is dropped.
    keep_bytes: int = 1 << 30
    #: Bytes of the newest output that Redis keeps.
    redis_bytes: int = 1 << 20

    @property
    def segment_bytes(self) -> int:
        return max(64 << 10, min(SEGMENT_BYTES, self.keep_bytes // 8))


class WholeLog:
    """The whole log of one attempt. Only one thread calls it; its file is locked against other workers."""

    def __init__(self, run_id: str, attempt: int, token: int, path: Path, bounds: Bounds) -> None:
        self.run_id = run_id
        self.attempt = attempt
        self.token = token
        #: Path of the output, which changes when the attempt ends.
        self.path = path
        self._bounds = bounds
        #: Whether the job is gone, and nothing is printed any more.
        self.is_ended = False
        self.is_done = False
        self._reader: OutputReader | None = None
        self._manifest: Manifest | None = None
        #: Objects that no manifest names once the next one is written.
        self._dropped: set[str] = set()
        self._is_changed = False
        self._changed_s = -1e9
        self._stored_s = -1e9
        #: Monotonic time since which there is output that is not stored; None for none.
        self._behind_since_s: float | None = None
        self._number = 0

    @property
    def name(self) -> str:
        """RUN.ATTEMPT.TOKEN, as of the attempt's folder."""
        return f"{self.run_id}.{self.attempt}.{self.token}"

    def open(self) -> bool:
        """Open and lock the output; returns False when another worker has it. Raises OSError."""
        if self._reader is None:
            reader = OutputReader(self.path, make=False)
            if not reader.file.lock():
                reader.close()
                return False
            self._reader = reader
        return True

    def next_turn_s(self, now_s: float) -> float | None:
        """Seconds until `turn` must be called though nothing new was printed; None for never."""
        if self.is_done:
            return None
        times = [self._changed_s + _MANIFEST_EVERY_S] if self._is_changed else []
        if self._behind_since_s is not None:
            times.append(self._behind_since_s + STORE_AFTER_S)
        return max(0.0, min(times) - now_s) if times else None

    def turn(self, stored: StoredLogs, now_s: float, *, now_ms: int, base: int = 0, marks: Sequence[Mark] = ()) -> bool:
        """Store a segment if one is due; returns whether the next one is due now. Raises LaunchError, OSError.

        An error changes nothing: the same turn can be tried again. `base`: bytes that are in the file no more, because
        it began anew.
        """
        reader = self._reader
        assert reader is not None
        manifest = self._known(stored)
        reader.base = max(reader.base, base)
        end = reader.end(manifest.end)
        unsaved = end - manifest.end
        is_more = False
        if unsaved <= 0:
            self._behind_since_s = None
        elif self._is_due(unsaved, now_s):
            has_stored = self._store(stored, manifest, end, now_ms, marks)
            self._stored_s = now_s
            self._behind_since_s = None
            manifest = self._known(stored)
            is_more = has_stored and end > manifest.end and self._is_due(end - manifest.end, now_s)
        else:
            self._behind_since_s = now_s if self._behind_since_s is None else self._behind_since_s
        if self.is_ended and not is_more:
            self._complete(stored, replace(manifest, is_complete=True, end=max(end, manifest.end)))
        elif self._is_changed and (not is_more or now_s - self._changed_s >= _MANIFEST_EVERY_S):
            self._write_manifest(stored, manifest, now_s)
        return is_more

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _known(self, stored: StoredLogs) -> Manifest:
        """What is stored of the attempt, or was stored by a worker before this one."""
        if self._manifest is None:
            try:
                found = stored.manifest(self.run_id, self.attempt)
            except ValueError:
                found = None  # it is written anew
            if found is None or found.token != self.token:
                found = Manifest(self.run_id, self.attempt, self.token)
            self._manifest = replace(found, is_complete=False)
        return self._manifest

    def _is_due(self, unsaved: int, now_s: float) -> bool:
        if self.is_ended or unsaved >= self._bounds.segment_bytes:
            return True
        if self._behind_since_s is not None and now_s - self._behind_since_s >= STORE_AFTER_S:
            return True
        # Before it is too much for Redis to have the rest.
        return unsaved >= self._bounds.redis_bytes // 2 and now_s - self._stored_s >= _GROW_EVERY_S

    def _store(self, stored: StoredLogs, manifest: Manifest, end: int, now_ms: int, marks: Sequence[Mark]) -> bool:
        """Store the next output, if there is any: in a new segment, or in one instead of the last, small one."""
        before = manifest.segments[-1] if manifest.segments else None
        frames: list[bytes] = []
        blocks: list[Block] = []
        start, line, is_unsure = manifest.end, manifest.end_line, False
        grows = (
            before is not None
            and before.end == manifest.end
            and before.length < self._bounds.segment_bytes // 2
            and self._again(before, frames, blocks)
        )
        if grows:
            assert before is not None
            start, line, is_unsure = before.offset, before.line, before.is_line_unsure
        else:
            frames, blocks = [], []
        for position, data in self._pieces(manifest.end, end, room=self._bounds.segment_bytes - _length(blocks)):
            if position > start + _length(blocks):
                if blocks:
                    break  # the rest is a segment of its own
                known = self._line_at(position, marks)
                is_unsure = known is None
                start, line = position, line if known is None else max(line, known)
            frame = zstd.compress(data)
            frames.append(frame)
            blocks.append(Block(len(data), len(frame), data.count(b"\n"), _time_at(position, marks, now_ms)))
        if not blocks:
            return False  # all of it was given back to the disk before it was read
        self._number += 1
        name = f"{self.run_id}/{self.attempt}/{start:013d}-{self._number}-{secrets.token_hex(4)}.zst"
        stored.objects.put(name, frames)
        segment = Segment(name, 0, start, line, tuple(blocks), is_unsure)
        grown = manifest.with_segment(segment, end_ms=_time_at(segment.end - 1, marks, now_ms), instead_of_last=grows)
        if grown.kept_bytes > self._bounds.keep_bytes:
            grown = grown.without_middle(self._bounds.keep_bytes)
        self._dropped |= manifest.names - grown.names
        self._manifest, self._is_changed = grown, True
        return True

    def _again(self, segment: Segment, frames: list[bytes], blocks: list[Block]) -> bool:
        """Compress a stored segment's output again, small blocks together; False when the file has it no more."""
        assert self._reader is not None
        place = segment.offset
        for block in _together(segment.blocks):
            position, data = self._reader.read(place, block.length)
            if position != place or len(data) != block.length or data.count(b"\n") != block.lines:
                return False
            frame = zstd.compress(data)
            frames.append(frame)
            blocks.append(block._replace(stored=len(frame)))
            place += block.length
        return True

    def _pieces(self, position: int, end: int, *, room: int) -> Iterator[tuple[int, bytes]]:
        """The output from a position on, `room` bytes at most, each piece with its position."""
        assert self._reader is not None
        size = min(BLOCK_BYTES, max(16 << 10, self._bounds.segment_bytes // 4))
        while position < end and room > 0:
            at, data = self._reader.read(position, min(size, end - position, room))
            if data:
                yield at, data
            elif at == position:
                return
            position, room = at + len(data), room - len(data)

    def _line_at(self, position: int, marks: Sequence[Mark]) -> int | None:
        """The number of line breaks before a position that follows lost output; None when it is not known."""
        assert self._reader is not None
        at = bisect.bisect_left(marks, position, key=lambda mark: mark.offset)
        if at == len(marks) or marks[at].offset - position > _COUNT_BYTES:
            return None
        count, place = 0, position
        while place < marks[at].offset:
            found, data = self._reader.read(place, min(BLOCK_BYTES, marks[at].offset - place))
            if found != place or not data:
                return None
            count, place = count + data.count(b"\n"), place + len(data)
        return marks[at].line - count

    def _write_manifest(self, stored: StoredLogs, manifest: Manifest, now_s: float) -> None:
        stored.put_manifest(manifest)
        self._manifest, self._is_changed, self._changed_s = manifest, False, now_s
        dropped, self._dropped = self._dropped, set()
        try:
            stored.objects.delete(dropped)
        except BaseException:
            self._dropped |= dropped
            raise

    def _complete(self, stored: StoredLogs, manifest: Manifest) -> None:
        """Say that nothing more comes, make one object of all, and delete what else there is."""
        self._write_manifest(stored, manifest, 0.0)
        if len(manifest.names) > 1:
            with contextlib.suppress(DamagedError):
                manifest = merge(stored, manifest)
        stored.delete_unnamed(manifest)
        os.unlink(self.path)
        self.is_done = True


def merge(stored: StoredLogs, manifest: Manifest) -> Manifest:
    """Put all segments into one object, one at a time; returns the manifest, which is written.

    Raises LaunchError, DamagedError where a segment is gone or cut.
    """
    name = f"{manifest.run_id}/{manifest.attempt}/whole-{secrets.token_hex(4)}.zst"
    stored.objects.put(name, (stored.frames(segment) for segment in manifest.segments))
    place, segments = 0, []
    for segment in manifest.segments:
        segments.append(replace(segment, name=name, place=place))
        place += segment.stored
    merged = replace(manifest, segments=tuple(segments))
    stored.put_manifest(merged)
    return merged


def _length(blocks: Sequence[Block]) -> int:
    return sum(block.length for block in blocks)


def _together(blocks: Sequence[Block]) -> list[Block]:
    """The blocks, with neighbours joined that are small and near in time; their `stored` has no meaning."""
    joined: list[Block] = []
    for block in blocks:
        last = joined[-1] if joined else None
        if last and last.length + block.length <= _SMALL_BYTES and block.at_ms - last.at_ms <= _SMALL_MS:
            joined[-1] = last._replace(length=last.length + block.length, lines=last.lines + block.lines)
        else:
            joined.append(block)
    return joined


def _time_at(position: int, marks: Sequence[Mark], now_ms: int) -> int:
    """The time at which the output at a position was seen."""
    at = bisect.bisect_right(marks, position, key=lambda mark: mark.offset)
    return marks[at].at_ms if at < len(marks) else now_ms
