"""The file that a job writes its output to: bounded on disk, and with room ahead of the writer."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import stat
from pathlib import Path

_FALLOC_KEEP_SIZE = 0x01
_FALLOC_PUNCH_HOLE = 0x02
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)

#: Disk that a job finds ahead of its output also when others have filled the disk.
RESERVE_BYTES = 256 * 1024


class OutputFile:
    """Offsets count from the job's first byte, whatever has been given back to the disk since.

    The job has the file open for appending, so nothing here ever moves what it writes.
    """

    def __init__(self, path: str | Path, *, make: bool = True) -> None:
        """`make`: where it is not there. Raises OSError, also for what a job has put in the file's place."""
        self._file = open(path, "r+b", buffering=0, opener=_make if make else _find)  # noqa: SIM115
        if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
            self._file.close()
            raise OSError(errno.EINVAL, "it is no plain file", str(path))
        #: Everything before it has been given back to the disk.
        self.freed = 0
        #: Where the file's position 0 is, once it had to be cut to nothing.
        self._base = 0
        self._reserved_to = 0

    @property
    def closed(self) -> bool:
        return self._file.closed

    def size(self) -> int:
        """How many bytes the job has written."""
        return self._base + os.fstat(self._file.fileno()).st_size

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._file.fileno(), length, offset - self._base)

    def free_before(self, offset: int) -> None:
        """Give the disk of what is before `offset` back, while the job goes on."""
        if offset <= max(self.freed, self._base):
            return
        if self._allocate(_FALLOC_KEEP_SIZE | _FALLOC_PUNCH_HOLE, 0, offset - self._base) == 0:
            self.freed = offset
            return
        # No holes on this file system. The job appends, so it goes on at the file's new beginning.
        self._base = self.size()
        os.ftruncate(self._file.fileno(), 0)
        self.freed = self._base
        self._reserved_to = 0

    def reserve(self) -> bool:
        """Make sure that the job can go on writing for a while; False when the disk is full."""
        end = self.size() - self._base
        if self._reserved_to - end > RESERVE_BYTES // 2:
            return True
        problem = self._allocate(_FALLOC_KEEP_SIZE, end, RESERVE_BYTES)
        if problem == errno.ENOSPC:
            return False
        # Any other problem is a file system that cannot reserve.
        self._reserved_to = end + RESERVE_BYTES
        return True

    def close(self) -> None:
        self._file.close()

    def _allocate(self, mode: int, position: int, length: int) -> int:
        """0, or the error's number."""
        done = _libc.fallocate(self._file.fileno(), mode, position, length) == 0
        return 0 if done else ctypes.get_errno()


#: No link leads to a file that is none of the job's, and no pipe blocks who opens it.
_AS_IT_IS = os.O_NOFOLLOW | os.O_NONBLOCK


def _make(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | _AS_IT_IS, 0o666)


def _find(path: str, flags: int) -> int:
    return os.open(path, flags | _AS_IT_IS)


def empty(path: str) -> None:
    """Make the file as good as new. Raises OSError for one that anybody else has open, or under another name."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | _AS_IT_IS)
    try:
        # The kernel gives such a lease on a plain file to whoever has its only open descriptor, until that is closed.
        # Who opens the file at that instant waits, and the holder gets a signal: SIGIO would be its end.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        found = os.fstat(fd)
        if found.st_nlink != 1:
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK), path)
        if found.st_size or found.st_blocks:
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)
