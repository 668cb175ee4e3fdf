"""Writes down how each job of a worker ended, in one file, before the end is reported to anybody.

So an exit status outlives the guard and the worker, killed in the same instant: what was written is in the kernel's
page cache. Room for the lines is reserved ahead, for the disk may be full. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import time
from typing import NamedTuple, cast

from launch_worker.runners.process.reaped import Reaped
from launch_worker.runners.stop_reason import StopReason
from launch_worker.untrusted.plain_files import open_plain, read_plain

#: Name of the file in a worker's folder.
EXITS = "exits"
#: Bytes of the file at most.
_MOST_BYTES = 64 << 20
#: Bytes reserved ahead.
_ROOM_BYTES = 32 << 10
_FALLOC_KEEP_SIZE = 0x01
_LINE = re.compile(r"(\S+) (-?\d+) (\S+) (\d+\.\d+)")
#: Seconds to wait for the file's lock, and between two tries.
_LOCK_S, _LOCK_AGAIN_S = 2.0, 0.01
#: Lines of their own, which earlier releases pass over.
_USED_LINE = re.compile(r"(\S+) used (\d+\.\d+) (\d+)")
_FULL_LINE = re.compile(r"(\S+) disk-full")
_OOM_LINE = re.compile(r"(\S+) oom")


class Exit(NamedTuple):
    """How the main process of one attempt's job ended."""

    #: Exit code, or minus the signal's number.
    status: int
    #: Why it had been signalled before.
    stopped_by: StopReason
    #: Boot time at which the end was noticed.
    at: float = 0.0
    #: What the main process had used, and what its descendants had that it waited for; None where it is not known.
    used: Reaped | None = None
    #: Whether output was given up by then, because the disk was full.
    disk_was_full: bool = False
    #: Whether the kernel ended it because there was too little memory.
    is_out_of_memory: bool = False


class ExitFile:
    """Writes the file for the guard, the one process that shortens it."""

    def __init__(self, folder: str) -> None:
        """Raises OSError."""
        self._folder = folder
        self._path = f"{folder}/{EXITS}"
        self._fd = _open(self._path)
        self._size = os.fstat(self._fd).st_size
        #: End of the reserved room, in bytes from the file's beginning.
        self._room_to = 0
        #: Bytes at which the lines of attempts that were reported meanwhile are left out.
        self._shorten_at = 2 * _ROOM_BYTES
        self._reserve()

    def keep(self, attempt: str, exited: Exit) -> bool:
        """Write one exit; False where it could not be written. `attempt` is the name of the attempt's folder."""
        if self._size >= self._shorten_at:
            self._shorten()
        written = _append(self._fd, attempt, exited)
        self._size += written
        if self._room_to - self._size < _ROOM_BYTES // 2:
            self._reserve()
        return written > 0

    def close(self) -> None:
        os.close(self._fd)

    def _reserve(self) -> None:
        """Reserve room for lines to come. Where there is none, the next line has it tried again."""
        # A file system that cannot reserve room takes the line, or does not, when there is one.
        with contextlib.suppress(AttributeError):
            if _libc().fallocate(self._fd, _FALLOC_KEEP_SIZE, self._size, _ROOM_BYTES) == 0:
                self._room_to = self._size + _ROOM_BYTES

    def _shorten(self) -> None:
        """Leave out the attempts that were reported: they have no folder any more. A full disk keeps the file long."""
        partial = f"{self._path}.partial"
        try:
            # Not waiting: a frozen worker may have the lock.
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fd = _open(partial, os.O_TRUNC)
            try:
                text = "".join(
                    _lines(attempt, exited)
                    for attempt, exited in read_exits(self._folder).items()
                    if os.path.exists(f"{self._folder}/runs/{attempt}")
                ).encode()
                if os.write(fd, text) < len(text):
                    raise OSError("the disk is full")
                os.rename(partial, self._path)
            except BaseException:
                os.close(fd)
                raise
        except OSError:
            self._shorten_at = 2 * self._size
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            return
        os.close(self._fd)
        self._fd, self._size, self._room_to = fd, len(text), 0
        self._shorten_at = max(2 * _ROOM_BYTES, 2 * self._size)
        self._reserve()


def keep_exit(folder: str, attempt: str, exited: Exit) -> bool:
    """Write one line from the worker, to which a job came back when its guard died; False where it was not written."""
    path = f"{folder}/{EXITS}"
    try:
        while True:
            fd = _open(path)
            try:
                _lock(fd)
                # The guard may just have replaced the file by a shorter one.
                if os.fstat(fd).st_ino == os.stat(path).st_ino:
                    return _append(fd, attempt, exited) > 0
            finally:
                os.close(fd)
    except OSError:
        return False


def read_exits(folder: str) -> dict[str, Exit]:
    """Return how the attempts of a worker's folder ended, by the names of their folders, as far as that was kept."""
    try:
        lines = read_plain(f"{folder}/{EXITS}", most_bytes=_MOST_BYTES).decode("ascii", "replace").splitlines()
    except OSError:
        return {}
    found = [match for match in map(_LINE.fullmatch, lines) if match is not None]
    used = {
        match[1]: Reaped(float(match[2]), int(match[3]))
        for match in map(_USED_LINE.fullmatch, lines)
        if match is not None
    }
    full = {match[1] for match in map(_FULL_LINE.fullmatch, lines) if match is not None}
    oom = {match[1] for match in map(_OOM_LINE.fullmatch, lines) if match is not None}
    return {
        match[1]: Exit(
            int(match[2]),
            cast(StopReason, "" if match[3] == "-" else match[3]),
            float(match[4]),
            used.get(match[1]),
            match[1] in full,
            match[1] in oom,
        )
        for match in found
    }


def _open(path: str, more: int = 0) -> int:
    return open_plain(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | more)


def _lines(attempt: str, exited: Exit) -> str:
    text = f"{attempt} {exited.status} {exited.stopped_by or '-'} {exited.at:.3f}\n"
    if exited.used is not None:
        text = f"{attempt} used {exited.used[0]:.6f} {exited.used[1]}\n{text}"
    if exited.is_out_of_memory:
        text = f"{attempt} oom\n{text}"
    return f"{attempt} disk-full\n{text}" if exited.disk_was_full else text


def _lock(fd: int) -> None:
    """Lock the file, which the guard does for an instant. Raises OSError where a job does for longer."""
    until = time.monotonic() + _LOCK_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                raise
            time.sleep(_LOCK_AGAIN_S)


def _append(fd: int, attempt: str, exited: Exit) -> int:
    """Write one exit; the number of its bytes, or 0 when it was not written whole."""
    line = _lines(attempt, exited).encode()
    try:
        written = os.write(fd, line)
        if written < len(line):
            os.ftruncate(fd, os.fstat(fd).st_size - written)
            return 0
    except OSError:
        return 0
    return written


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return libc
