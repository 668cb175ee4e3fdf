"""Moves what a job prints from its pipe into a file of bounded size on the worker's disk.

A job has only the pipe, so nothing that it does to its own descriptors changes what is in the file. The guard moves
the output of processes, a thread of the worker that of containers; others read the file. Standard library only.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import fcntl
import os
import termios
import time
from collections.abc import Callable

from launch_worker.untrusted.plain_files import open_plain

#: Error numbers of a disk, or a quota, that has no room.
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)

_FALLOC_KEEP_SIZE = 0x01
_FALLOC_PUNCH_HOLE = 0x02
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)

#: Bytes of disk reserved ahead of the output, which it finds also when others have filled the disk.
RESERVE_BYTES = 256 * 1024
#: Bytes of output after which room is asked for again where there was none.
_RETRY_BYTES = 8 * 1024
#: Bytes of newest output that a running attempt's file keeps at least, unless there is no disk at all.
_LEAST_BYTES = 1 << 20
#: Divisor of the free disk: a file keeps at most this part of it, for other jobs print too.
_PART_OF_DISK = 8
#: Bytes of a block of disk; only whole blocks are freed, for a part of one would read as zeros.
_BLOCK_BYTES = 64 * 1024
#: Bytes of newest output that are tried to be kept, one after the other, when the disk takes nothing more.
_ON_FULL_DISK = (RESERVE_BYTES, _BLOCK_BYTES, 0)
#: Bytes of a pipe, and of one that was found full.
_PIPE_BYTES = 64 * 1024
_LARGE_PIPE_BYTES = 1 << 20
#: Bytes of one job's output moved in one turn of the guard, which has other things to do.
_TURN_BYTES = 256 * 1024
#: Seconds that output waits in its pipe at most, so that a job that prints lines does not wake the guard with each.
_PAUSE_S = 0.01
#: Seconds of a pause that is too short to be worth it.
_NO_PAUSE_S = 0.001
#: Seconds until a disk that took nothing is tried again.
_FULL_DISK_S = 0.1
#: Tries to get the end of a job's output onto a full disk, and the seconds between two of them.
_LAST_TRIES = 20
_LAST_PAUSE_S = 0.005


def make_pipe() -> int:
    """Make a pipe; its read end, while processes get the other end by `open_for_printing`. Raises OSError.

    Nobody but root can open it for reading through /proc, and so take lines away; everybody who has it may write, also
    a process of the job that changed its user.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.close(write_end)
    os.fchmod(read_end, 0o222)
    return read_end


def open_for_printing(pipe: int) -> int:
    """Open a blocking write end of a pipe whose read end this process has. Raises OSError."""
    return os.open(f"/proc/self/fd/{pipe}", os.O_WRONLY | os.O_CLOEXEC)


def bytes_in(pipe: int) -> int:
    """Count the bytes that were printed and not moved yet."""
    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


class OutputFile:
    """A plain file for reading. Freed parts read as zeros; `first_kept` finds their end."""

    def __init__(self, path: str | os.PathLike[str], *, make: bool = True, other_names: bool = True) -> None:
        """`make`: create a missing file; `other_names`: it may have some, as a file of another user that is linked.

        Raises OSError, also where a job has put something in the file's place.
        """
        self._fd = _open(os.fspath(path), make=make)
        if not other_names and os.fstat(self._fd).st_nlink > 1:
            self.close()
            raise OSError(errno.EMLINK, "it has another name too", os.fspath(path))

    @property
    def closed(self) -> bool:
        return self._fd < 0

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def lock(self) -> bool:
        """Lock the file against others who lock it; returns False where another process has, or the file is deleted."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return os.fstat(self._fd).st_nlink > 0

    def read(self, position: int, length: int) -> bytes:
        return os.pread(self._fd, length, position)

    def first_kept(self, position: int) -> int:
        """The first position, not before `position`, whose byte had not been freed."""
        try:
            return os.lseek(self._fd, position, os.SEEK_DATA)
        except OSError as error:
            # ENXIO: no data from there on. Others: a file system that has no holes.
            return self.size() if error.errno == errno.ENXIO else position

    def free_before(self, position: int) -> None:
        """Free the disk before `position`. Where the file system cannot, the file is cut to nothing."""
        if _punch(self._fd, position) != 0:
            os.ftruncate(self._fd, 0)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class OutputWriter:
    """Writes to an attempt's output file: bounded on disk, with room ahead, and the newest kept on a full disk.

    It keeps at most twice `limit_bytes` of output, less on a disk with little room. A position in the file is the
    number of bytes that were printed before it, except where the file system cannot free a part of a file: there the
    file begins anew each time it grew too large.
    """

    def __init__(self, path: str | os.PathLike[str], *, limit_bytes: int) -> None:
        """Raises OSError."""
        self._fd = _open(os.fspath(path), make=True)
        self._limit_bytes = limit_bytes
        #: Position of the next byte.
        self.end = os.lseek(self._fd, 0, os.SEEK_END)
        #: Position before which the disk was freed.
        self._freed = 0
        #: Position of the end at which the disk is looked at next; a brief job's output does not come that far.
        self._look_at = RESERVE_BYTES // 2
        #: The file is cut to nothing before the next byte; not sooner, so that a reader has the time to reach its end.
        self._begins_anew = False
        #: Newest bytes that the disk did not take.
        self._rest = b""
        self._splices = hasattr(os, "splice")
        #: Output was given up because the disk was full.
        self.disk_was_full = False

    def follow(self) -> None:
        """Bound a file to which a process appends by itself. Never raises."""
        if self._begins_anew:
            self._begin_anew()
        self.end = os.fstat(self._fd).st_size
        if self.end >= self._look_at:
            self.make_room()

    def make_room(self) -> None:
        """Keep the file within what the disk allows, and make room ahead. Never raises."""
        self._bound(self._allowed())
        problem = self._reserve()
        if problem in FULL_DISK and self._give_up(RESERVE_BYTES):
            problem = self._reserve()
        # Who fills the disk may have taken what was given up: tried again while there is room ahead. Any other problem
        # is a file system that cannot reserve.
        self._look_at = self.end + (_RETRY_BYTES if problem in FULL_DISK else RESERVE_BYTES // 2)

    def move(self, pipe: int, most: int) -> int:
        """Move output from the pipe; the number of bytes, 0 when no process has the pipe open any more.

        Raises BlockingIOError for an empty pipe, and OSError when the disk takes nothing.
        """
        if self._rest:
            self.write(b"")
        if self._splices:
            try:
                moved = self._insist(lambda: os.splice(pipe, self._fd, most, flags=os.SPLICE_F_NONBLOCK))
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOSYS):
                    raise
                self._splices = False  # not on this file system, or by this kernel
            else:
                self._went_on(moved)
                return moved
        data = os.read(pipe, min(most, _PIPE_BYTES))
        self.write(data)
        return len(data)

    def write(self, data: bytes) -> None:
        """Write all. Raises OSError when the disk does not take it; the next call writes the newest of the rest."""
        data, self._rest = self._rest + data, b""
        while data:
            try:
                written = self._insist(lambda data=data: os.write(self._fd, data))  # type: ignore[misc]
            except OSError:
                self._rest = data[-RESERVE_BYTES:]
                raise
            self._went_on(written)
            data = data[written:]

    def flush(self) -> None:
        """Write the rest. Raises OSError when the disk does not take it."""
        self.write(b"")

    def close(self) -> None:
        os.close(self._fd)

    def _went_on(self, written: int) -> None:
        self.end += written
        if self.end >= self._look_at:
            self.make_room()

    def _insist(self, write: Callable[[], int]) -> int:
        """Write; on a full disk write again after older output was given up. Raises OSError."""
        if self._begins_anew:
            self._begin_anew()
        for keep_bytes in _ON_FULL_DISK:
            try:
                return write()
            except OSError as error:
                if error.errno not in FULL_DISK:
                    raise
                self.disk_was_full = True
                if self._give_up(keep_bytes):
                    self._reserve()
        return write()

    def _allowed(self) -> int:
        """Bytes of newest output that may stay."""
        try:
            disk = os.fstatvfs(self._fd)
        except OSError:
            return self._limit_bytes
        there_is = disk.f_bavail * disk.f_frsize + self.end - self._freed
        return min(self._limit_bytes, max(_LEAST_BYTES, there_is // _PART_OF_DISK))

    def _bound(self, allowed: int) -> None:
        if self.end - self._freed > 2 * allowed and not self._free_before(self.end - allowed):
            self._begins_anew = True

    def _give_up(self, keep_bytes: int) -> bool:
        """Give up older output for newer; False where there was none."""
        before = (self.end - keep_bytes) // _BLOCK_BYTES * _BLOCK_BYTES
        if before <= self._freed:
            return False
        self.disk_was_full = True
        if not self._free_before(before):
            self._begin_anew()
        return True

    def _free_before(self, position: int) -> bool:
        """Free the disk before `position`; False where the file system cannot free a part of a file."""
        position = position // _BLOCK_BYTES * _BLOCK_BYTES
        if position > 0 and _punch(self._fd, position) != 0:
            return False
        self._freed = max(self._freed, position)
        return True

    def _begin_anew(self) -> None:
        self._begins_anew = False
        os.ftruncate(self._fd, 0)
        self.end = os.lseek(self._fd, 0, os.SEEK_SET)
        self._freed, self._look_at = 0, RESERVE_BYTES // 2

    def _reserve(self) -> int:
        """Reserve disk ahead; 0, or the error's number."""
        return _allocate(self._fd, _FALLOC_KEEP_SIZE, self.end, RESERVE_BYTES)


def make_room(path: str | os.PathLike[str], *, limit_bytes: int) -> None:
    """Make the file, with room ahead, for a job that is about to start. Raises OSError."""
    writer = OutputWriter(path, limit_bytes=limit_bytes)
    try:
        writer.make_room()
    finally:
        writer.close()


class Piped:
    """Moves one job's output from its pipe into its file, which is opened when there is something to move."""

    def __init__(self, pipe: int, path: str, *, limit_bytes: int) -> None:
        self.pipe = pipe
        self.path = path
        self._limit_bytes = limit_bytes
        self._writer: OutputWriter | None = None
        self._pipe_bytes = _PIPE_BYTES
        self._moved_at = time.monotonic()
        self._was_dropped = False

    @property
    def disk_was_full(self) -> bool:
        """Whether output was given up because the disk was full."""
        return self._was_dropped or (self._writer is not None and self._writer.disk_was_full)

    def make_room(self) -> None:
        """Reserve disk for the job's next output, whoever fills the rest. Never raises."""
        with contextlib.suppress(OSError):  # the next try comes with the first output
            self._open().make_room()

    def move(self) -> float | None:
        """Move some bytes; the seconds for which the rest may wait, None when no process has the pipe any more."""
        before, self._moved_at = self._moved_at, time.monotonic()
        try:
            moved = self._open().move(self.pipe, _TURN_BYTES)
        except BlockingIOError:
            return _PAUSE_S
        except OSError:
            return self._drop()
        if not moved:
            return None
        if moved >= min(_TURN_BYTES, self._pipe_bytes // 2):
            self._enlarge()
            return 0.0
        # Until the pipe is half full, at the rate of the output until now.
        pause_s = (self._moved_at - before) * self._pipe_bytes / 2 / moved
        return min(_PAUSE_S, pause_s) if pause_s > _NO_PAUSE_S else 0.0

    def finish(self) -> None:
        """Move the bytes in the pipe, and close both: a process that escaped from the job prints into nothing."""
        for _ in range(_LAST_TRIES):
            try:
                self._move_rest()
            except OSError as error:
                self._was_dropped = True
                if error.errno not in FULL_DISK:
                    break
                time.sleep(_LAST_PAUSE_S)
            else:
                break
        os.close(self.pipe)
        if self._writer is not None:
            self._writer.close()

    def _move_rest(self) -> None:
        """Move the bytes that are in the pipe. Raises OSError when the disk takes nothing."""
        left = bytes_in(self.pipe)
        with contextlib.suppress(BlockingIOError):
            while left > 0 and (moved := self._open().move(self.pipe, left)):
                left -= moved
        if self._writer is not None:
            self._writer.flush()

    def _open(self) -> OutputWriter:
        if self._writer is None:
            self._writer = OutputWriter(self.path, limit_bytes=self._limit_bytes)
        return self._writer

    def _enlarge(self) -> None:
        if self._pipe_bytes < _LARGE_PIPE_BYTES:
            with contextlib.suppress(OSError):  # the user's pipes have as much memory as they may have
                self._pipe_bytes = fcntl.fcntl(self.pipe, fcntl.F_SETPIPE_SZ, _LARGE_PIPE_BYTES)

    def _drop(self) -> float:
        """Keep the newest output in the pipe, while the disk takes nothing; older output would block the job."""
        too_much = bytes_in(self.pipe) - self._pipe_bytes // 2
        if too_much <= 0:
            return _FULL_DISK_S
        self._was_dropped = True
        os.read(self.pipe, too_much)
        self._enlarge()
        return 0.0


def _open(path: str, *, make: bool) -> int:
    return open_plain(path, os.O_RDWR | (os.O_CREAT if make else 0))


def _punch(fd: int, position: int) -> int:
    """Free the disk before `position`; 0, or the error's number."""
    return _allocate(fd, _FALLOC_KEEP_SIZE | _FALLOC_PUNCH_HOLE, 0, position)


def _allocate(fd: int, mode: int, position: int, length: int) -> int:
    """0, or the error's number."""
    return 0 if _libc.fallocate(fd, mode, position, length) == 0 else ctypes.get_errno()
