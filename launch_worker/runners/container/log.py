"""Copies the log that an engine keeps of a container into the attempt's output file, and can go on after a break.

The engine puts a time before each message. A mark beside the file says how far messages were copied, so that a later
worker goes on with the next byte.
"""

from __future__ import annotations

import calendar
import logging
import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from launch_worker.runners.output import OutputWriter

log = logging.getLogger("launch_worker.container_log")

_TIME = re.compile(rb"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")
#: Bytes of the pieces into which the engine splits long lines.
_PIECE = 16 * 1024
#: Bytes copied between two notes of the mark, and so read again at most after a break.
_NOTE_BYTES = 1 << 20
#: Nanoseconds by which the times of the two streams may be out of order.
_DISORDER_NS = 2_000_000_000
#: Bytes read without the mark after which the mark is taken for lost.
_UNSURE_BYTES = 64 << 20
_HEADER = struct.Struct(">BxxxL")


def messages_of(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Read the messages of both streams from the engine's multiplexed one, in their order."""
    buffer = b""
    for chunk in chunks:
        buffer = buffer + chunk if buffer else chunk
        at = 0
        while len(buffer) - at >= _HEADER.size:
            _, length = _HEADER.unpack_from(buffer, at)
            if len(buffer) - at - _HEADER.size < length:
                break
            yield buffer[at + _HEADER.size : at + _HEADER.size + length]
            at += _HEADER.size + length
        buffer = buffer[at:]


class ContainerLog:
    """Copies one container's log. Not thread-safe.

    After a break the engine is asked for its messages from a little before the mark on, and those that are in the file
    already are passed over: all up to the message of the mark, then the bytes that were copied after it. Times alone
    would not do: the times of the two streams are not in the order of their messages, and the pieces of a long line
    share one.
    """

    def __init__(self, output: Path, *, limit_bytes: int = 64 << 20, mends_lines: bool = False) -> None:
        """`limit_bytes`: as of an `OutputWriter`.

        `mends_lines`: the engine's log driver is `local`, which drops the newline of long lines (Docker 20.10)."""
        self._output = output
        self._writer = OutputWriter(output, limit_bytes=limit_bytes)
        self._mark_file = output.with_name("log-mark")
        #: Time, as the engine writes it, of the last message before the newest time, and the file's bytes after it.
        self._mark_at, self._mark_size = self._read_mark()
        self._at = self._mark_at
        self._noted_size = self._size
        #: Messages since the engine was asked; None once the mark was among them.
        self._unsure: list[tuple[bytes, bytes]] | None = None
        self._unsure_bytes = 0
        self._in_mark = False
        self._skip = 0
        self._mends_lines = mends_lines
        #: The last message was the last piece of a long line, without its newline, or the end of its stream.
        self._is_open = False
        self._line_at = b""
        self._is_refused = False
        #: Bytes copied by this object.
        self.copied = 0

    @property
    def disk_was_full(self) -> bool:
        """Whether output was given up because the disk was full."""
        return self._is_refused or self._writer.disk_was_full

    def resume(self) -> float:
        """Begin anew; the time, in seconds, from which on the engine's log is needed (0 for all)."""
        self._in_mark = self._is_open = False
        self._skip = self._size - self._mark_size
        self._unsure, self._unsure_bytes = ([], 0) if self._mark_at else (None, 0)
        return max(0, nanoseconds(self._mark_at) - _DISORDER_NS) / 1e9

    def add(self, message: bytes) -> None:
        """Copy one message of the engine, its time in front."""
        at, _, data = message.partition(b" ")
        if self._in_mark and at == self._mark_at:
            self._note_line(at, data)
            return
        self._in_mark = False
        if self._unsure is None:
            self._copy(at, data)
        elif at == self._mark_at:
            self._unsure, self._in_mark = None, True
            self._note_line(at, data)
        else:
            self._unsure.append((at, data))
            self._unsure_bytes += len(data)
            is_past = nanoseconds(at) > nanoseconds(self._mark_at) + _DISORDER_NS
            if is_past or self._unsure_bytes > _UNSURE_BYTES:
                self._mark_is_lost()

    def end(self) -> None:
        """Note that no more messages come in this turn."""
        if self._unsure:
            self._mark_is_lost()

    def close(self) -> None:
        self._writer.close()

    @property
    def _size(self) -> int:
        return self._writer.end

    def _mark_is_lost(self) -> None:
        """Copy the messages that were held back and are newer than the mark: the engine has dropped its older log."""
        unsure, self._unsure, self._skip = self._unsure or [], None, 0
        mark = nanoseconds(self._mark_at)
        for at, data in unsure:
            if nanoseconds(at) > mark:
                self._copy(at, data)

    def _copy(self, at: bytes, data: bytes) -> None:
        if at != self._at:
            self._mark_at, self._mark_size = self._at, self._size - self._skip
            self._at = at
            if self._size - self._noted_size > _NOTE_BYTES:
                self._note_mark()
        if self._is_open and at != self._line_at:
            data = b"\n" + data
        self._note_line(at, data)
        if self._skip:
            known = min(self._skip, len(data))
            self._skip -= known
            data = data[known:]
        self._write(data)

    def _write(self, data: bytes) -> None:
        self.copied += len(data)
        try:
            self._writer.write(data)
        except OSError as error:
            if not self._is_refused:
                log.error("log.disk_full file=%s: %s", self._output, error)
            self._is_refused = True

    def _note_line(self, at: bytes, data: bytes) -> None:
        self._line_at = at
        self._is_open = self._mends_lines and data[-1:] != b"\n" and len(data.lstrip(b"\n")) < _PIECE

    def _note_mark(self) -> None:
        partial = self._mark_file.with_suffix(".partial")
        try:
            partial.write_bytes(b"%s %d" % (self._mark_at, self._mark_size))
            partial.rename(self._mark_file)
            self._noted_size = self._size
        except OSError as error:
            log.debug("the mark in the log could not be kept: %s", error)

    def _read_mark(self) -> tuple[bytes, int]:
        try:
            at, size = self._mark_file.read_bytes().split()
            return at, min(int(size), self._size)
        except (OSError, ValueError):
            return b"", 0


def nanoseconds(at: bytes) -> int:
    """Nanoseconds since the epoch of a time as the engine writes it; 0 for any other text."""
    found = _TIME.fullmatch(at)
    if found is None:
        return 0
    seconds = calendar.timegm(tuple(int(found[group]) for group in range(1, 7)))
    zone = found[8]
    if zone != b"Z":
        offset = int(zone[1:3]) * 3600 + int(zone[4:6]) * 60
        seconds -= offset if zone[:1] == b"+" else -offset
    return seconds * 1_000_000_000 + int((found[7] or b"0").ljust(9, b"0"))
