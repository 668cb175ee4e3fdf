"""Stores the whole logs of a worker's attempts in one thread, which slows neither jobs nor the worker.

A log is taken up when it outgrows what Redis keeps of it. While the job runs its output file is the buffer: a store
that is slow or away costs the oldest output that is not stored, which is counted. At its end the file is moved to
`LAUNCH_WORK_DIR/logs/RUN.ATTEMPT.TOKEN`. It is deleted when all of it is stored, by this worker or the machine's next.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from launch_worker.errors import LaunchError
from launch_worker.logs.stored import StoredLogs
from launch_worker.logs.whole import Bounds, Mark, WholeLog
from launch_worker.redis_url import mask_url
from launch_worker.runners.output import OutputFile
from launch_worker.settings import Settings

log = logging.getLogger("launch_worker.logs")

#: Seconds of output that is looked at together.
_BATCH_S = 0.1
#: Seconds until a store that failed is tried again, at first and at most.
_RETRY_S, _LONGEST_RETRY_S = 0.5, 30.0
#: Seconds between two looks for output that a dead worker has left.
_ADOPT_EVERY_S = 15.0
#: Seconds for the rest of ended attempts when the worker ends; the next worker stores what is left.
_CLOSE_S = 10.0
#: Number of LAUNCH_LOG_FILE_BYTES that ended attempts' output may take on the disk until it is stored.
_BUFFER_FILES = 16
#: Bytes of a block of disk, as of an output file.
_BLOCK_BYTES = 64 << 10


class Source(Protocol):
    """A job's output, as the log shipper follows it."""

    run_id: str
    attempt: int

    @property
    def path(self) -> Path:
        """The file, in the folder of its attempt."""

    @property
    def base(self) -> int:
        """Bytes of the output that are in the file no more, because it began anew."""

    @property
    def ahead_ms(self) -> int:
        """Milliseconds by which Redis' clock is ahead of this machine's."""

    def marks(self) -> Sequence[Mark]:
        """Places that the shipper passed, the newest last."""


@dataclass
class _Entry:
    """A log that is being stored, and its source while that is known."""

    whole: WholeLog
    source: Source | None


class Recorder:
    """The whole logs of one worker. Thread-safe; nothing is imported or started before the first log is large."""

    def __init__(self, url: str, work_dir: Path, bounds: Bounds, *, buffer_bytes: int) -> None:
        """`buffer_bytes`: of ended attempts' output that waits on this machine, at most."""
        self._url = url
        self._work_dir = work_dir
        self._bounds = bounds
        self._buffer_bytes = buffer_bytes
        #: The URL for people, without secrets.
        self.shown = mask_url(url)
        self._entries: dict[str, _Entry] = {}
        #: News for the thread: a source that has grown, or the path of its output after its end, or None to forget it.
        self._news: queue.SimpleQueue[tuple[str, Source, Path | None]] = queue.SimpleQueue()
        self._known: set[str] = set()
        self._wake = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._close_at: float | None = None
        self._adopt_at = 0.0
        self._retry_at = 0.0
        self._retry_s = _RETRY_S
        self._is_away = False
        self._problem = ""
        self._stored: StoredLogs | None = None

    def note(self, source: Source) -> None:
        """Say that a large output has grown. Never raises, and costs next to nothing."""
        name = source.path.parent.name
        if name not in self._known:
            self._known.add(name)
            self._news.put((name, source, source.path))
        self._wake.set()
        self._start()

    def keep(self, source: Source) -> None:
        """Take the output file of an ended attempt away, to store the rest of it. Never raises."""
        name = source.path.parent.name
        try:
            self._known.add(name)
            self._news.put((name, source, keep_output(self._work_dir, source.path)))
        except OSError as error:
            log.error("log.not_stored run=%s attempt=%d: %s", source.run_id, source.attempt, error)
        self._wake.set()
        self._start()

    def forget(self, source: Source) -> None:
        """Let another worker go on with a running attempt's output."""
        name = source.path.parent.name
        if name in self._known:
            self._news.put((name, source, None))
            self._wake.set()

    def adopt(self) -> None:
        """Look for output that a dead worker of this machine has left; called now and then."""
        if time.monotonic() < self._adopt_at:
            return
        self._adopt_at = time.monotonic() + _ADOPT_EVERY_S
        with contextlib.suppress(OSError):
            if any(name not in self._known for name in os.listdir(buffer_folder(self._work_dir))):
                self._wake.set()
                self._start()

    def close(self) -> None:
        """Store the rest of ended attempts, for some seconds; what is not stored by then is the next worker's."""
        self._close_at = time.monotonic() + _CLOSE_S
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_CLOSE_S + 1.0)

    def _start(self) -> None:
        if self._thread is None:
            with self._starting:
                if self._thread is None and self._close_at is None:
                    self._thread = threading.Thread(target=self._run, name="log-recorder", daemon=True)
                    self._thread.start()

    def _run(self) -> None:
        is_more = False
        while not self._is_over():
            if not is_more:
                self._wake.wait(self._pause_s())
                if self._close_at is None:
                    time.sleep(_BATCH_S)
                self._wake.clear()
            try:
                is_more = self._round()
            except Exception:
                log.exception("log.not_stored")
                self._back_off()
                is_more = False
        for entry in self._entries.values():
            entry.whole.close()

    def _is_over(self) -> bool:
        if self._close_at is None:
            return False
        waits = any(entry.whole.is_ended for entry in self._entries.values()) or not self._news.empty()
        return not waits or self._is_away or time.monotonic() > self._close_at

    def _pause_s(self) -> float | None:
        now = time.monotonic()
        if self._is_away:
            return max(0.0, self._retry_at - now)
        times = [entry.whole.next_turn_s(now) for entry in self._entries.values()]
        return min((seconds for seconds in times if seconds is not None), default=None)

    def _round(self) -> bool:
        """Give each log a turn; returns whether more can be done at once."""
        self._read_news()
        self._adopt_left()
        if time.monotonic() < self._retry_at:
            self._bound_buffer()
            return False
        is_more = False
        for name, entry in list(self._entries.items()):
            try:
                is_more = self._turn(name, entry) or is_more
            except LaunchError as error:
                self._note_away(error)
                # The others come first next time, in case this log alone cannot be stored.
                self._entries[name] = self._entries.pop(name)
                return False
            except OSError as error:
                log.error("log.not_stored run=%s attempt=%d: %s", entry.whole.run_id, entry.whole.attempt, error)
                self._drop(name)
        if self._is_away:
            self._is_away, self._problem = False, ""
            log.warning("log.store_answers %s", self.shown)
        self._retry_s = _RETRY_S
        return is_more

    def _turn(self, name: str, entry: _Entry) -> bool:
        whole, source = entry.whole, entry.source
        try:
            if not whole.open():
                if whole.is_ended:
                    self._drop(name)  # another worker of the machine has it
                return False
        except FileNotFoundError:
            if whole.is_ended:
                self._drop(name)
            return False
        if self._stored is None:
            self._stored = StoredLogs(self._url)
        more = whole.turn(
            self._stored,
            time.monotonic(),
            now_ms=int(time.time() * 1000) + (0 if source is None else source.ahead_ms),
            base=0 if source is None else source.base,
            marks=() if source is None else source.marks(),
        )
        if whole.is_done:
            log.info("log.stored run=%s attempt=%d", whole.run_id, whole.attempt)
            self._drop(name)
        return more

    def _drop(self, name: str) -> None:
        self._entries.pop(name).whole.close()
        self._known.discard(name)

    def _read_news(self) -> None:
        while True:
            try:
                name, source, path = self._news.get_nowait()
            except queue.Empty:
                return
            entry = self._entries.get(name)
            if path is None:
                if entry is None or not entry.whole.is_ended:
                    self._known.discard(name)
                    if entry is not None:
                        self._drop(name)
                continue
            if entry is None:
                entry = self._entries[name] = _Entry(_whole_log(name, path, self._bounds), source)
            entry.whole.path = path
            entry.whole.is_ended = path.parent == buffer_folder(self._work_dir)

    def _adopt_left(self) -> None:
        folder = buffer_folder(self._work_dir)
        try:
            names = os.listdir(folder)
        except OSError:
            return
        for name in names:
            if name in self._entries or name in self._known:
                continue
            try:
                whole = _whole_log(name, folder / name, self._bounds)
                whole.is_ended = True
                if whole.open():
                    self._known.add(name)
                    self._entries[name] = _Entry(whole, None)
            except (OSError, ValueError) as error:
                log.debug("%s is no output that can be stored: %s", folder / name, error)

    def _note_away(self, error: LaunchError) -> None:
        self._is_away = True
        if str(error) != self._problem:
            self._problem = str(error)
            log.warning("log.store_away: %s; output waits on this machine's disk until it answers", error)
        self._back_off()

    def _back_off(self) -> None:
        self._retry_at = time.monotonic() + self._retry_s
        self._retry_s = min(2 * self._retry_s, _LONGEST_RETRY_S)
        self._bound_buffer()

    def _bound_buffer(self) -> None:
        """Give up the oldest output that waits, where it is too much; a gap in the log says how much is missing."""
        found: list[tuple[float, int, Path]] = []
        folder = buffer_folder(self._work_dir)
        with contextlib.suppress(OSError):
            for name in os.listdir(folder):
                facts = os.stat(folder / name)
                found.append((facts.st_mtime, facts.st_blocks * 512, folder / name))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self._buffer_bytes:
                return
            if size <= _BLOCK_BYTES:
                continue
            with contextlib.suppress(OSError):
                file = OutputFile(path, make=False)
                try:
                    file.free_before(max(0, file.size() - 1) // _BLOCK_BYTES * _BLOCK_BYTES)
                finally:
                    file.close()
                total -= size
                log.warning("log.dropped file=%s bytes=%d: the store has been away for too long", path.name, size)


def recorder_of(settings: Settings) -> Recorder | None:
    """What stores whole logs; None where LAUNCH_LOG_URL names no place for them."""
    if not settings.log_url:
        return None
    return Recorder(
        settings.log_url,
        settings.work_dir,
        Bounds(keep_bytes=settings.log_keep_bytes, redis_bytes=settings.log_bytes),
        buffer_bytes=_BUFFER_FILES * settings.log_file_bytes,
    )


def buffer_folder(work_dir: Path) -> Path:
    """The folder of ended attempts' output that is not stored yet."""
    return work_dir / "logs"


def keep_output(work_dir: Path, output: Path) -> Path:
    """Move the output file of an ended attempt, from its folder, to where workers find it. Raises OSError."""
    folder = buffer_folder(work_dir)
    kept = folder / output.parent.name
    try:
        os.rename(output, kept)
    except FileNotFoundError:
        folder.mkdir(mode=0o700, exist_ok=True)
        os.rename(output, kept)
    return kept


def keep_large_output(settings: Settings, output: Path) -> None:
    """Move the output of an attempt whose worker has died to where workers find it, if it is large. Never raises."""
    try:
        if settings.log_url and os.stat(output).st_size > settings.log_bytes:
            keep_output(settings.work_dir, output)
    except FileNotFoundError:
        pass
    except OSError as error:
        log.error("log.not_stored file=%s: %s", output, error)


def _whole_log(name: str, path: Path, bounds: Bounds) -> WholeLog:
    """The whole log of the attempt that a folder is named for. Raises ValueError."""
    run_id, attempt, token = name.split(".")
    return WholeLog(run_id, int(attempt), int(token), path, bounds)
