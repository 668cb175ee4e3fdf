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
import stat
import termios
import time
from collections.abc import Callable

_FALLOC_KEEP_SIZE = 0x01
_FALLOC_PUNCH_HOLE = 0x02
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)

#: Disk that output finds ahead of it also when others have filled the disk.
RESERVE_BYTES = 256 * 1024
#: What a running attempt's file keeps of its newest output at least, unless there is no disk at all.
_LEAST_BYTES = 1 << 20
#: A file keeps at most this part of the disk that there is for it, for others print too.
_PART_OF_DISK = 8
#: What is given back ends here, so that no block is freed in part: a part would read as zeros.
_BLOCK_BYTES = 64 * 1024
#: Of these the newest is tried to be kept when the disk takes nothing more.
_ON_FULL_DISK = (RESERVE_BYTES, _BLOCK_BYTES, 0)
#: The size of a pipe, and of one that was found full.
_PIPE_BYTES = 64 * 1024
_LARGE_PIPE_BYTES = 1 << 20
#: What is moved of one job's output in one turn of the guard, which has other things to do.
_TURN_BYTES = 256 * 1024
#: How long output waits in its pipe at most, so that a job that prints lines does not wake the guard with each.
_PAUSE_S = 0.01
#: A pause that is no use.
_NO_PAUSE_S = 0.001
#: Before a disk that took nothing is asked again.
_FULL_DISK_S = 0.1


def make_pipe() -> int:
    """The read end of a new pipe; processes get the other end by `open_for_printing`. Raises OSError.

    Nobody but root can open it for reading through /proc, and so take lines away; everybody who has it may write, also
    a process of the job that changed its user.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.close(write_end)
    os.fchmod(read_end, 0o222)
    return read_end


def open_for_printing(pipe: int) -> int:
    """A blocking write end of a pipe of which this process has the read end. Raises OSError."""
    return os.open(f"/proc/self/fd/{pipe}", os.O_WRONLY | os.O_CLOEXEC)


def bytes_in(pipe: int) -> int:
    """How much was printed and not moved yet."""
    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


class OutputFile:
    """A plain file for reading. What was given back to the disk reads as zeros; `first_kept` tells where it ends."""

    def __init__(self, path: str | os.PathLike[str], *, make: bool = True) -> None:
        """`make`: where it is not there. Raises OSError, also for what a job has put in the file's place."""
        self._fd = _open(os.fspath(path), make=make)

    @property
    def closed(self) -> bool:
        return self._fd < 0

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def read(self, position: int, length: int) -> bytes:
        return os.pread(self._fd, length, position)

    def first_kept(self, position: int) -> int:
        """From where on, not before `position`, what was read until now had not been given back."""
        try:
            return os.lseek(self._fd, position, os.SEEK_DATA)
        except OSError as error:
            # ENXIO: nothing from there on. Others: a file system that has no holes.
            return self.size() if error.errno == errno.ENXIO else position

    def free_before(self, position: int) -> None:
        """Give the disk of what is before `position` back. Where that cannot be, the file is cut to nothing."""
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
        #: Where the next byte goes.
        self.end = os.lseek(self._fd, 0, os.SEEK_END)
        #: All before it has been given back to the disk.
        self._freed = 0
        #: From this end on the disk is looked at: the little that a brief job prints needs that not.
        self._look_at = RESERVE_BYTES // 2
        #: Before the next byte: not sooner, so that a reader has the time to come to the end.
        self._begins_anew = False
        #: Of what was to be written, and the disk did not take.
        self._rest = b""
        self._splices = hasattr(os, "splice")
        #: Whether output had to be given up because of that.
        self.disk_was_full = False

    def follow(self) -> None:
        """Do the same for a file to which a process appends by itself. Never raises."""
        if self._begins_anew:
            self._begin_anew()
        self.end = os.fstat(self._fd).st_size
        if self.end >= self._look_at:
            self.make_room()

    def make_room(self) -> None:
        """Keep the file within what the disk allows, and make room ahead. Never raises."""
        self._bound(self._allowed())
        if self._reserve() == errno.ENOSPC and self._give_up(RESERVE_BYTES):
            self._reserve()
        # Any other problem is a file system that cannot reserve.
        self._look_at = self.end + RESERVE_BYTES // 2

    def move(self, pipe: int, most: int) -> int:
        """Move output from the pipe; returns how much that was, 0 when no process has the pipe open any more.

        Raises BlockingIOError when nothing is in it, and OSError when the disk takes nothing.
        """
        if self._rest:
            self.write(b"")
        if self._splices:
            try:
                moved = self._insist(lambda: os.splice(pipe, self._fd, most, flags=os.SPLICE_F_NONBLOCK))
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOSYS):
                    raise
                self._splices = False  # this file system, or this kernel, has it not
            else:
                self._went_on(moved)
                return moved
        data = os.read(pipe, min(most, _PIPE_BYTES))
        self.write(data)
        return len(data)

    def write(self, data: bytes) -> None:
        """Raises OSError when the disk takes not all of it; the newest of the rest is written before what follows."""
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
        """Raises OSError when something is left that the disk does not take."""
        self.write(b"")

    def close(self) -> None:
        os.close(self._fd)

    def _went_on(self, written: int) -> None:
        self.end += written
        if self.end >= self._look_at:
            self.make_room()

    def _insist(self, write: Callable[[], int]) -> int:
        """Write; on a full disk again, after older output was given up for it. Raises OSError."""
        if self._begins_anew:
            self._begin_anew()
        for keep_bytes in _ON_FULL_DISK:
            try:
                return write()
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                self.disk_was_full = True
                if self._give_up(keep_bytes):
                    self._reserve()
        return write()

    def _allowed(self) -> int:
        """How much of the newest output may stay."""
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
        """Whether there was older output to be given up for newer."""
        before = (self.end - keep_bytes) // _BLOCK_BYTES * _BLOCK_BYTES
        if before <= self._freed:
            return False
        self.disk_was_full = True
        if not self._free_before(before):
            self._begin_anew()
        return True

    def _free_before(self, position: int) -> bool:
        """False where the file system cannot free a part of a file."""
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
        """0, or the error's number."""
        return _allocate(self._fd, _FALLOC_KEEP_SIZE, self.end, RESERVE_BYTES)


def make_room(path: str | os.PathLike[str], *, limit_bytes: int) -> None:
    """Make the file, with room ahead, for a job that is about to start. Raises OSError."""
    writer = OutputWriter(path, limit_bytes=limit_bytes)
    try:
        writer.make_room()
    finally:
        writer.close()


class Piped:
    """One job's output on its way from its pipe into its file, which is opened when there is something to move."""

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
        """Whether output had to be given up because of that."""
        return self._was_dropped or (self._writer is not None and self._writer.disk_was_full)

    def make_room(self) -> None:
        """Make sure that the job's next output finds room, whoever fills the disk. Never raises."""
        with contextlib.suppress(OSError):  # it is tried again with the first output
            self._open().make_room()

    def move(self) -> float | None:
        """Move some; returns for how many seconds the rest may wait, None when no process has the pipe any more."""
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
        # By the rate of what came until now, until the pipe is half full.
        pause_s = (self._moved_at - before) * self._pipe_bytes / 2 / moved
        return min(_PAUSE_S, pause_s) if pause_s > _NO_PAUSE_S else 0.0

    def finish(self) -> None:
        """Move what is in the pipe now, and close both: who has escaped from the job prints into nothing."""
        try:
            left = bytes_in(self.pipe)
            while left > 0:
                moved = self._open().move(self.pipe, left)
                if not moved:
                    break
                left -= moved
            if self._writer is not None:
                self._writer.flush()
        except BlockingIOError:
            pass
        except OSError:
            self._was_dropped = True
        os.close(self.pipe)
        if self._writer is not None:
            self._writer.close()

    def _open(self) -> OutputWriter:
        if self._writer is None:
            self._writer = OutputWriter(self.path, limit_bytes=self._limit_bytes)
        return self._writer

    def _enlarge(self) -> None:
        if self._pipe_bytes < _LARGE_PIPE_BYTES:
            with contextlib.suppress(OSError):  # its user has as much memory in pipes as it may have
                self._pipe_bytes = fcntl.fcntl(self.pipe, fcntl.F_SETPIPE_SZ, _LARGE_PIPE_BYTES)

    def _drop(self) -> float:
        """The disk takes nothing: the newest output stays in the pipe, and the job is not held up by the older."""
        too_much = bytes_in(self.pipe) - self._pipe_bytes // 2
        if too_much <= 0:
            return _FULL_DISK_S
        self._was_dropped = True
        os.read(self.pipe, too_much)
        self._enlarge()
        return 0.0


#: No link leads to a file that is none of the job's, and no pipe blocks who opens it.
_AS_IT_IS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def _open(path: str, *, make: bool) -> int:
    fd = os.open(path, os.O_RDWR | _AS_IT_IS | (os.O_CREAT if make else 0), 0o666)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is no plain file", path)
    return fd


def _punch(fd: int, position: int) -> int:
    """0, or the error's number."""
    return _allocate(fd, _FALLOC_KEEP_SIZE | _FALLOC_PUNCH_HOLE, 0, position)


def _allocate(fd: int, mode: int, position: int, length: int) -> int:
    """0, or the error's number."""
    return 0 if _libc.fallocate(fd, mode, position, length) == 0 else ctypes.get_errno()
