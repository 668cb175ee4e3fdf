"""Keeps the newest output of a few attempts as Redis has it, joined, so that a look at its lines reads only the new.

A job that prints a line a second makes an entry for each: reading 20,000 of them anew takes a third of a second.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Sequence
from typing import NamedTuple

from launch_worker.model.run import Record
from launch_worker.store.logs import LogChunk, Times
from launch_worker.store.store import Store

#: Attempts whose output is kept.
_ATTEMPTS = 8
#: Bytes that an output may grow beyond twice what Redis had of it, before Redis is asked anew what it has.
_SPARE_BYTES = 1 << 20


class LiveLog(NamedTuple):
    """Some output of an attempt: what follows each other is one chunk."""

    chunks: Sequence[LogChunk] = ()
    #: Last entry that is in it.
    entry: str = "-"
    #: Bytes of it, and those that Redis had when all was read.
    size: int = 0
    read: int = 0


class LiveLogs:
    """Is called by many threads; two that read the same at once read it twice."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, int, int], LiveLog] = {}

    def read(self, store: Store, record: Record, attempt: int) -> LiveLog:
        """What Redis has of an attempt's output, and what it had a while ago."""
        # Another attempt of this number, of a run whose record was lost, has another token.
        key = (record.id, attempt, record.token if attempt == record.attempt else 0)
        with self._lock:
            known = self._kept.get(key, LiveLog())
        if known.size > 2 * known.read + _SPARE_BYTES:
            known = LiveLog()
        new = store.log(record.id, attempt, after=known.entry)
        if new:
            chunks = _joined(known.chunks, new)
            size = sum(len(chunk.data) for chunk in chunks)
            known = LiveLog(chunks, new[-1].entry, size, known.read or size)
        with self._lock:
            self._kept.pop(key, None)
            self._kept[key] = known
            while len(self._kept) > _ATTEMPTS:
                del self._kept[next(iter(self._kept))]
        return known


def _joined(known: Sequence[LogChunk], new: Sequence[LogChunk]) -> list[LogChunk]:
    """All of it, of one chunk where it has no gap."""
    joined = list(known)
    growing = _Growing(joined.pop()) if joined else None
    for chunk in new:
        if growing is None or not growing.takes(chunk):
            if growing is not None:
                joined.append(growing.chunk())
            growing = _Growing(chunk)
        else:
            growing.add(chunk)
    return [*joined, *([growing.chunk()] if growing else ())]


class _Growing:
    """A chunk to which others are added."""

    def __init__(self, first: LogChunk) -> None:
        self._first = first
        self._data = bytearray(first.data)
        times = first.times
        self._offsets = array("Q", times.offsets if times else (first.offset,))
        self._at_ms = array("Q", times.at_ms if times else (first.at_ms,))

    def takes(self, chunk: LogChunk) -> bool:
        """Whether a chunk follows, or is known in part."""
        end = self._first.offset + len(self._data)
        if not self._first.offset <= chunk.offset <= end:
            return False
        # Where one of them does not know its line, what is counted may differ from what is known.
        return chunk.offset < end or (chunk.line is None) == (self._first.line is None)

    def add(self, chunk: LogChunk) -> None:
        end = self._first.offset + len(self._data)
        data = chunk.data[end - chunk.offset :]
        if data:
            self._offsets.append(end)
            self._at_ms.append(chunk.at_ms)
            self._data += data

    def chunk(self) -> LogChunk:
        first = self._first
        return LogChunk(first.entry, first.offset, bytes(self._data), first.line, Times(self._offsets, self._at_ms))
