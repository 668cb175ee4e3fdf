"""Ships the output files of running jobs into bounded Redis streams.

A job writes straight to a file on this machine and never waits for us; this reads what was written, batched, and
keeps the newest `log_bytes` of each attempt in Redis. While Redis is away the file itself is the buffer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from pathlib import Path
from typing import Protocol

import inotify_simple

from launch_worker.errors import BrokerUnavailableError
from launch_worker.runners.output import RESERVE_BYTES, OutputFile
from launch_worker.store.store import Store

log = logging.getLogger("launch_worker.logs")

_CHUNK = 64 * 1024
#: Output that arrives within this time is shipped together: what `--follow` lags behind at most, on an idle machine.
_BATCH_MS = 20
#: A flood is sampled, newest first, at about this rate, so that it slows neither its job nor Redis.
_BYTES_PER_S = 16 << 20
_RETRY_S = 1.0


class Growing(Protocol):
    """A file that a job writes to: its output, or what it tells."""

    run_id: str
    path: Path
    #: When the job last wrote, on the monotonic clock.
    last_output_s: float

    def look(self) -> None:
        """Heed what cannot wait for Redis; never raises."""

    def ship(self, store: Store) -> int:
        """Send what is new; returns how many bytes that was. Raises BrokerUnavailableError, and can be repeated."""

    def close(self) -> None:
        """Ship no more of it."""


class Tail:
    """One attempt's output file, and how far it has been shipped.

    The file takes at most about twice `file_bytes` of disk.
    """

    def __init__(self, run_id: str, attempt: int, path: Path, *, keep_bytes: int, file_bytes: int = 64 << 20) -> None:
        self.run_id = run_id
        self.attempt = attempt
        self.path = path
        self._file = OutputFile(path)
        self._keep_bytes = keep_bytes
        self._file_bytes = max(file_bytes, 2 * keep_bytes)
        self._offset = 0
        self._kept: deque[tuple[str, int]] = deque()
        self._kept_bytes = 0
        self._lock = threading.Lock()
        #: When output last arrived, on the monotonic clock.
        self.last_output_s = time.monotonic()
        #: Whether the disk was full at any time since then, so that the job may have failed to write.
        self.disk_was_full = not self._file.reserve()

    def resume(self, store: Store) -> None:
        """Go on where another worker's tail of the same attempt stopped. Before it is shipped."""
        chunks = store.log(self.run_id, self.attempt)
        self._kept = deque((chunk.entry, len(chunk.data)) for chunk in chunks)
        self._kept_bytes = sum(len(chunk.data) for chunk in chunks)
        self._offset = chunks[-1].offset + len(chunks[-1].data) if chunks else 0

    def look(self) -> None:
        """Nothing of an output is urgent."""

    def ship(self, store: Store) -> int:
        """Send what is new; returns how many bytes that was. Raises BrokerUnavailableError, and can be repeated."""
        shipped = 0
        with self._lock:
            if self._file.closed:
                return 0
            size = self._make_room()
            if size - self._offset > self._keep_bytes:
                self._offset = size - self._keep_bytes
            self._offset = max(self._offset, self._file.freed)
            while self._offset < size:
                data = self._file.read(self._offset, min(_CHUNK, self._keep_bytes, size - self._offset))
                if not data:
                    break
                had_some = bool(self._kept)
                while self._kept and self._kept_bytes + len(data) > self._keep_bytes:
                    self._kept_bytes -= self._kept.popleft()[1]
                keep_from = self._kept[0][0] if self._kept else "*" * had_some
                entry = store.append_log(self.run_id, self.attempt, data, offset=self._offset, keep_from=keep_from)
                self._kept.append((entry, len(data)))
                self._kept_bytes += len(data)
                self._offset += len(data)
                shipped += len(data)
        return shipped

    def _make_room(self) -> int:
        """Bound the file's disk, reserve some for what comes; returns the output's size."""
        size = self._file.size()
        if size - self._file.freed > 2 * self._file_bytes:
            self._file.free_before(size - self._file_bytes)
        if not self._file.reserve():
            self.disk_was_full = True
            # What has been shipped is in Redis; of the rest the newest is worth more than the job's next lines.
            self._file.free_before(max(self._offset, size - RESERVE_BYTES))
            self._file.reserve()
        return size

    def close(self) -> None:
        with self._lock:
            self._file.close()


class LogShipper:
    """One thread that sleeps until a watched file grows, then ships it."""

    def __init__(self, store: Store, *, keep_bytes: int, file_bytes: int) -> None:
        self._store = store
        self._keep_bytes = keep_bytes
        self._file_bytes = file_bytes
        self._inotify = inotify_simple.INotify()
        # Taking a watch away is an event: so the thread can be woken without writing to a disk that may be full.
        self._wake = self._inotify.add_watch("/", inotify_simple.flags.DELETE_SELF)
        self._tails: dict[int, Growing] = {}
        self._closing = False
        self._thread = threading.Thread(target=self._loop, name="log-shipper", daemon=True)
        self._thread.start()

    def watch(self, run_id: str, attempt: int, path: Path, *, resume: bool = False) -> Tail:
        """Begin to ship `path`, which is made if it is not there.

        `resume` ships first what a former worker left unshipped, and raises BrokerUnavailableError when it cannot.
        """
        tail = Tail(run_id, attempt, path, keep_bytes=self._keep_bytes, file_bytes=self._file_bytes)
        if resume:
            try:
                tail.resume(self._store)
                tail.ship(self._store)
            except BaseException:
                tail.close()
                raise
        self._tails[self._inotify.add_watch(path, inotify_simple.flags.MODIFY)] = tail
        return tail

    def listen(self, talk: Growing) -> None:
        """Begin to ship what a job tells in its file."""
        self._tails[self._inotify.add_watch(talk.path, inotify_simple.flags.MODIFY)] = talk
        talk.look()

    def finish(self, tail: Growing) -> None:
        """Ship the rest and forget the file. Raises BrokerUnavailableError, and can be repeated."""
        self._unwatch(tail)
        tail.ship(self._store)
        tail.close()

    def forget(self, tail: Growing) -> None:
        """Ship no more of it."""
        self._unwatch(tail)
        tail.close()

    def _unwatch(self, tail: Growing) -> None:
        for watch, known in list(self._tails.items()):
            if known is tail:
                del self._tails[watch]
                try:
                    self._inotify.rm_watch(watch)
                except OSError:
                    log.debug("the watch of %s was gone", tail.path)

    def close(self) -> None:
        """End the thread. What is not shipped by then is not lost: it is in the files."""
        self._closing = True
        self._inotify.rm_watch(self._wake)
        self._thread.join(5.0)
        self._inotify.close()

    def _loop(self) -> None:
        unsent: set[Growing] = set()
        while not self._closing:
            timeout_ms = int(_RETRY_S * 1000) if unsent else None
            events = self._inotify.read(timeout=timeout_ms, read_delay=_BATCH_MS)
            # -1: the kernel's event queue ran over, so any file may have grown.
            watches = [event.wd for event in events]
            tails = self._tails.copy()
            grown = set(tails.values()) if -1 in watches else {tails[watch] for watch in watches if watch in tails}
            for tail in grown:
                tail.last_output_s = time.monotonic()
                tail.look()
            shipped = 0
            unsent |= grown
            for tail in list(unsent):
                try:
                    shipped += tail.ship(self._store)
                    unsent.discard(tail)
                except BrokerUnavailableError:
                    break
                except Exception:
                    log.exception("log.unreadable run=%s path=%s", tail.run_id, tail.path)
                    unsent.discard(tail)
            if shipped > _CHUNK:
                time.sleep(shipped / _BYTES_PER_S)
