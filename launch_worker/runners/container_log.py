"""Copies the log that an engine keeps of a container into the attempt's output file, and can go on after a break.

The engine puts a time before each message; how far they were copied is kept beside the file, so that a later worker
goes on with the byte that comes next.
"""

from __future__ import annotations

import calendar
import logging
import os
import re
import time
from pathlib import Path

log = logging.getLogger("launch_worker.container_log")

_TIME = re.compile(rb"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d) ")
#: How much is copied between two notes of the position: what is read again after a break at most.
_NOTE_BYTES = 1 << 20
#: A flood is copied at about this rate, so that it leaves the worker some of its processor; the engine's log is bounded
#: and keeps the newest.
_BYTES_PER_S = 32 << 20


class ContainerLog:
    """Not thread-safe: one thread copies one container's log."""

    def __init__(self, output: Path) -> None:
        self._file = output.open("ab", buffering=0)
        self._position = output.with_name("log-position")
        self._size = os.fstat(self._file.fileno()).st_size
        #: The newest message's time in nanoseconds, and where in the file the first one with that time begins.
        self._at, self._begins = self._read_position()
        self._noted = self._size
        #: Bytes of messages from that time on that are in the file already.
        self._skip = self._size - self._begins
        self.disk_was_full = False
        self._began, self._copied = time.monotonic(), 0

    @property
    def since_ns(self) -> int:
        """From which message on the engine's log is needed; 0 for all of it."""
        return self._at

    def resume(self) -> None:
        """The next message is the first one from `since_ns` on: what is known of them is passed over."""
        self._skip = self._size - self._begins

    def add(self, message: bytes) -> None:
        """One message of the engine, its time in front."""
        found = _TIME.match(message)
        if found is None:
            self._write(message)
            return
        at, data = _nanoseconds(found), message[found.end() :]
        if at < self._at:
            return
        if self._skip:
            known = min(self._skip, len(data))
            self._skip -= known
            data = data[known:]
            if not data:
                return
        if at > self._at:
            if self._size - self._noted > _NOTE_BYTES:
                self._note_position()
            self._at, self._begins = at, self._size
        self._write(data)

    def pace(self) -> None:
        """Sleep when more than a job would print was copied of late."""
        early_s = self._copied / _BYTES_PER_S - (time.monotonic() - self._began)
        if early_s > 0.05:
            time.sleep(min(early_s, 1.0))
        if time.monotonic() - self._began > 1.0:
            self._began, self._copied = time.monotonic(), 0

    def close(self) -> None:
        self._file.close()

    def _write(self, data: bytes) -> None:
        try:
            while data:
                written = self._file.write(data)
                data = data[written:]
                self._size += written
                self._copied += written
        except OSError as error:
            if not self.disk_was_full:
                log.error("log.disk_full file=%s: %s", self._file.name, error)
            self.disk_was_full = True

    def _note_position(self) -> None:
        partial = self._position.with_suffix(".partial")
        try:
            partial.write_text(f"{self._at} {self._begins}")
            partial.rename(self._position)
            self._noted = self._size
        except OSError as error:
            log.debug("the position in the log could not be kept: %s", error)

    def _read_position(self) -> tuple[int, int]:
        try:
            at, begins = self._position.read_text().split()
            return int(at), min(int(begins), self._size)
        except (OSError, ValueError):
            return 0, 0


def _nanoseconds(found: re.Match[bytes]) -> int:
    seconds = calendar.timegm(tuple(int(found[group]) for group in range(1, 7)))
    zone = found[8]
    if zone != b"Z":
        offset = int(zone[1:3]) * 3600 + int(zone[4:6]) * 60
        seconds -= offset if zone[:1] == b"+" else -offset
    return seconds * 1_000_000_000 + int((found[7] or b"0").ljust(9, b"0"))
