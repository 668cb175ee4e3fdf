"""Ships the output files of running jobs into bounded Redis streams.

A job prints into a file on this machine (`launch_worker.runners.output`) and never waits. The shipper reads what was
written, in batches, and keeps the newest `log_bytes` of each attempt in Redis. While Redis is away the file itself is
the buffer.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import inotify_simple

from launch_worker.attempt.tail import Growing, Tail
from launch_worker.errors import BrokerUnavailableError, UnknownRunError
from launch_worker.logs.recorder import Recorder
from launch_worker.store.store import Store

log = logging.getLogger("launch_worker.logs")

_CHUNK = 64 * 1024
#: Milliseconds within which output is shipped together: the lag of `--follow` on an idle machine, at most.
_BATCH_MS = 20
#: Seconds of a job's life before its files are watched; shorter jobs are read once, at their end.
FOLLOW_AFTER_S = _BATCH_MS / 1000
#: Bytes a second at which a flood is sampled, newest first, so that it slows neither its job nor Redis.
_BYTES_PER_S = 16 << 20
#: Seconds between two tries to send what could not be sent, or to watch what could not be watched.
_RETRY_S = 1.0
#: Events of the kernel by which a file has grown, or appeared in its folder.
_GROWS = inotify_simple.flags.MODIFY | inotify_simple.flags.CREATE | inotify_simple.flags.MOVED_TO


class LogShipper:
    """One thread that sleeps until a watched file grows, then ships it.

    It does not wake for a job that is gone before its files are watched: `finish` ships these in its caller's thread.
    """

    def __init__(
        self,
        store: Store,
        *,
        keep_bytes: int,
        file_bytes: int,
        is_away: Callable[[], bool] = lambda: False,
        on_away: Callable[[BrokerUnavailableError], None] = lambda _: None,
        recorder: Recorder | None = None,
    ) -> None:
        """While Redis `is_away` nothing is sent; `on_away` gets the error of a call that it did not answer.

        `recorder` stores the whole output of those that print more than Redis keeps.
        """
        self._store = store
        self._is_away = is_away
        self._on_away = on_away
        self._keep_bytes = keep_bytes
        self._recorder = recorder
        #: Size, bytes, of a file that no guard bounds, at most.
        self._file_bytes = file_bytes
        self._inotify = inotify_simple.INotify()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._ready = select.poll()
        for fd in (self._inotify.fileno(), self._wake):
            self._ready.register(fd, select.POLLIN)
        #: Lock of what is watched.
        self._watching = threading.Lock()
        self._tails: dict[int, Growing] = {}
        self._watches: dict[Growing, int] = {}
        #: Files that cannot be watched now; it is tried again every `_RETRY_S`.
        self._blind: set[Growing] = set()
        #: Files that had something in them when they came to be watched.
        self._behind: deque[Growing] = deque()
        self._closing = False
        self._thread = threading.Thread(target=self._loop, name="log-shipper", daemon=True)
        self._thread.start()

    def tail(self, run_id: str, attempt: int, path: Path) -> Tail:
        """The tail of the output of a job that is about to start; from `follow` on it is shipped while it grows."""
        return Tail(run_id, attempt, path, keep_bytes=self._keep_bytes, recorder=self._recorder)

    def watch(self, run_id: str, attempt: int, path: Path, *, resume: bool = False, bound: bool = False) -> Tail:
        """Begin to ship `path`, which is made if it is not there. `bound`: no guard bounds the file.

        `resume` ships first what a previous worker left unshipped, and raises BrokerUnavailableError when it cannot.
        """
        tail = self.tail(run_id, attempt, path)
        if resume:
            try:
                tail.resume(self._store)
                tail.ship(self._store)
            except BaseException:
                tail.close()
                raise
        if bound:
            try:
                tail.bound(self._file_bytes)
            except OSError as error:
                log.warning("log.not_bounded run=%s path=%s: %s", run_id, path, error)
        self.follow(tail)
        return tail

    def follow(self, *files: Growing) -> None:
        """Ship what is in these files, and what will be written to them. Never raises."""
        for growing in files:
            with self._watching:
                if self._closing:
                    return
                self._follow(growing)
            growing.look()
        with self._watching:
            if (self._behind or self._blind) and not self._closing:
                os.eventfd_write(self._wake, 1)

    def _follow(self, growing: Growing) -> None:
        if growing in self._watches:
            return
        try:
            watch = self._inotify.add_watch(growing.open(), _GROWS)
        except OSError as error:
            if growing not in self._blind:
                log.warning("log.not_watched run=%s path=%s: %s", growing.run_id, growing.path, error)
            # A file that cannot be watched does not count as silent.
            growing.last_output_s = time.monotonic()
            self._blind.add(growing)
            self._behind.append(growing)
            return
        self._blind.discard(growing)
        self._tails[watch], self._watches[growing] = growing, watch
        try:
            is_behind = growing.size() > 0
        except OSError:
            is_behind = True  # the job has put something odd there: `ship` logs it
        if is_behind:
            growing.last_output_s = time.monotonic()
            self._behind.append(growing)

    def finish(self, tail: Growing) -> None:
        """Ship the rest and forget the file. Can be repeated.

        Raises BrokerUnavailableError, and UnknownRunError where Redis has no record, or has lost it.
        """
        self._unwatch(tail)
        try:
            tail.ship(self._store)
        except OSError as error:
            log.error("log.unreadable run=%s path=%s: %s", tail.run_id, tail.path, error)
        tail.close()

    def forget(self, tail: Growing) -> None:
        """Ship no more of the file."""
        self._unwatch(tail)
        tail.close()
        if self._recorder is not None and isinstance(tail, Tail) and tail.is_outgrown:
            self._recorder.forget(tail)

    def keep(self, tail: Tail | None) -> None:
        """Have the rest of an ended attempt's whole output stored; the file of a large one leaves its folder."""
        if self._recorder is not None and tail is not None and tail.is_outgrown:
            self._recorder.keep(tail)

    def adopt(self) -> None:
        """Look for output that a dead worker of this machine has not stored."""
        if self._recorder is not None:
            self._recorder.adopt()

    def _unwatch(self, tail: Growing) -> None:
        with self._watching:
            self._blind.discard(tail)
            watch = self._watches.pop(tail, None)
            if watch is None:
                return
            del self._tails[watch]
            try:
                self._inotify.rm_watch(watch)
            except OSError:
                log.debug("the watch of %s was gone", tail.path)

    def close(self) -> None:
        """End the thread. What was not shipped by then is not lost: it is in the files."""
        with self._watching:
            self._closing = True
        os.eventfd_write(self._wake, 1)
        self._thread.join(5.0)
        self._inotify.close()
        os.close(self._wake)
        if self._recorder is not None:
            self._recorder.close()

    def _loop(self) -> None:
        unsent: set[Growing] = set()
        while not self._closing:
            grown = self._grown(timeout_ms=int(_RETRY_S * 1000) if unsent or self._blind else None)
            for tail in grown:
                tail.last_output_s = time.monotonic()
                tail.look()
            shipped = 0
            unsent |= grown
            for tail in [] if self._is_away() else list(unsent):
                try:
                    shipped += tail.ship(self._store)
                    unsent.discard(tail)
                except BrokerUnavailableError as error:
                    self._on_away(error)
                    break
                except UnknownRunError:
                    # Redis was rolled back, and the heartbeat writes the record again; it is tried again then.
                    log.debug("log.no_record run=%s", tail.run_id)
                except Exception:
                    log.exception("log.unreadable run=%s path=%s", tail.run_id, tail.path)
                    unsent.discard(tail)
            if shipped > _CHUNK:
                time.sleep(shipped / _BYTES_PER_S)

    def _grown(self, *, timeout_ms: int | None) -> set[Growing]:
        """Wait until files have grown, or for the time; returns the files that have grown."""
        ready = dict(self._ready.poll(timeout_ms))
        if self._wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)
        elif ready:
            time.sleep(_BATCH_MS / 1000)
        grown: set[Growing] = set()
        with contextlib.suppress(IndexError):
            while True:
                grown.add(self._behind.popleft())
        events = self._inotify.read(timeout=0)
        with self._watching:
            for growing in list(self._blind):
                self._follow(growing)
            # -1: the kernel's event queue ran over, so any file may have grown.
            if any(event.wd == -1 for event in events):
                return grown | set(self._tails.values())
            for event in events:
                tail = self._tails.get(event.wd)
                # A watched folder may have other files too.
                if tail is not None and event.name in ("", tail.path.name):
                    grown.add(tail)
        return grown
