"""Reads what a job prints from its output file, as the file grows."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from pathlib import Path
from typing import Protocol

from launch_worker.runners.output import OutputFile, OutputWriter
from launch_worker.store.store import Store

_CHUNK = 64 * 1024


class Growing(Protocol):
    """A file that a job writes to: its output, or its talk. Nothing is done with the file before `open`."""

    run_id: str
    #: Monotonic time at which the job last wrote.
    last_output_s: float

    @property
    def path(self) -> Path:
        """Where the file is, or will be."""

    def open(self) -> Path:
        """Prepare the file to be watched; returns the path to watch, the file or its folder. Raises OSError."""

    def size(self) -> int:
        """The number of bytes that the job has written by now. Raises OSError."""

    def look(self) -> None:
        """Act on what cannot wait for Redis; never raises."""

    def ship(self, store: Store) -> int:
        """Send what is new; returns the number of bytes. Raises BrokerUnavailableError, and can be repeated."""

    def close(self) -> None:
        """Ship no more of the file."""


class Tail:
    """One attempt's output file, and how far it was shipped."""

    def __init__(self, run_id: str, attempt: int, path: Path, *, keep_bytes: int) -> None:
        self.run_id = run_id
        self.attempt = attempt
        self.path = path
        self._file: OutputFile | None = None
        #: Writer that bounds the file; None where another process bounds it.
        self._bound: OutputWriter | None = None
        self._closed = False
        self._keep_bytes = keep_bytes
        #: Bytes of the output that were shipped or skipped.
        self._offset = 0
        #: Bytes of the output that are not in the file any more, because the file began anew.
        self._base = 0
        #: Entry ids and sizes of the chunks that Redis keeps, oldest first.
        self._kept: deque[tuple[str, int]] = deque()
        self._kept_bytes = 0
        self._lock = threading.Lock()
        #: Monotonic time at which output last arrived.
        self.last_output_s = time.monotonic()

    def open(self) -> Path:
        """Keep the file open from now on; it is made if it is not there. Raises OSError."""
        with self._lock:
            if not self._closed:
                self._file = self._file or OutputFile(self.path)
        return self.path

    def bound(self, file_bytes: int) -> None:
        """Bound the file here: the job's processes have it open, and no guard bounds it. Raises OSError."""
        self._bound = OutputWriter(self.path, limit_bytes=file_bytes)

    def size(self) -> int:
        """The number of bytes in an open file."""
        with self._lock:
            return 0 if self._file is None or self._closed else self._file.size()

    def resume(self, store: Store) -> None:
        """Go on where another worker's tail of the same attempt stopped; call it before `ship`."""
        chunks = store.log(self.run_id, self.attempt)
        self._kept = deque((chunk.entry, len(chunk.data)) for chunk in chunks)
        self._kept_bytes = sum(len(chunk.data) for chunk in chunks)
        self._offset = chunks[-1].offset + len(chunks[-1].data) if chunks else 0

    def look(self) -> None:
        """Do nothing: no part of an output is urgent."""

    def ship(self, store: Store) -> int:
        """Send what is new; returns the number of bytes. Raises BrokerUnavailableError, and can be repeated.

        A file that was not opened is opened if there is something in it. Raises OSError then.
        """
        shipped = 0
        with self._lock:
            file = self._found()
            if file is None:
                return 0
            if self._bound is not None:
                self._bound.follow()
            size = file.size()
            if self._base + size < self._offset:
                # The file was cut to nothing: its file system cannot free a part of a file.
                self._base = self._offset
            end = self._base + size
            self._offset = max(self._offset, end - self._keep_bytes)
            while self._offset < end:
                before = self._offset
                data = self._read(file, min(_CHUNK, self._keep_bytes, end - self._offset))
                if data:
                    self._append(store, data)
                    shipped += len(data)
                elif self._offset == before:
                    break
        return shipped

    def _found(self) -> OutputFile | None:
        """The file, if there is something in it. Raises OSError."""
        if self._closed or self._file is not None:
            return None if self._closed else self._file
        try:
            if not os.stat(self.path).st_size:
                return None
            self._file = OutputFile(self.path, make=False)
        except FileNotFoundError:
            return None
        return self._file

    def _read(self, file: OutputFile, length: int) -> bytes:
        """The next bytes; none where they were freed on the disk before they were read, which moves the offset."""
        position = self._offset - self._base
        data = file.read(position, length)
        lost = min(file.first_kept(position) - position, len(data))
        if lost > 0 and not data[:lost].strip(b"\0"):
            self._offset += lost
            return data[lost:]
        return data

    def _append(self, store: Store, data: bytes) -> None:
        had_some = bool(self._kept)
        while self._kept and self._kept_bytes + len(data) > self._keep_bytes:
            self._kept_bytes -= self._kept.popleft()[1]
        keep_from = self._kept[0][0] if self._kept else "*" * had_some
        missing = self._offset - self._kept_bytes
        entry = store.append_log(
            self.run_id, self.attempt, data, offset=self._offset, keep_from=keep_from, missing=missing
        )
        self._kept.append((entry, len(data)))
        self._kept_bytes += len(data)
        self._offset += len(data)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return  # the descriptors' numbers may be in other use by now
            self._closed = True
            for file in (self._file, self._bound):
                if file is not None:
                    file.close()
