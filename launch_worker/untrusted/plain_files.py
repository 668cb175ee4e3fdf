"""Opens files in whose place a job may have put anything: plain ones only, through no link, and without waiting.

The opening of a pipe waits for its other end, and that of a file on which somebody has a lease for the lease. Standard
library only, for the guard.
"""

from __future__ import annotations

import errno
import os
import stat

#: Flags with which a link leads to no other file, and nothing makes the opening wait.
_AS_IT_IS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def open_plain(path: str | os.PathLike[str], flags: int = os.O_RDONLY) -> int:
    """Open a file, and make it where `flags` say so; a descriptor. Raises OSError, also for what is no plain file."""
    fd = os.open(path, flags | _AS_IT_IS, 0o600)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is no plain file", os.fspath(path))
    return fd


def read_plain(path: str | os.PathLike[str], *, most_bytes: int) -> bytes:
    """Read a file. Raises OSError, also for what is no plain file, or has more bytes."""
    fd = open_plain(path)
    try:
        if os.fstat(fd).st_size > most_bytes:
            raise OSError(errno.EFBIG, f"it has more than {most_bytes:,} bytes", os.fspath(path))
        return os.read(fd, most_bytes)
    finally:
        os.close(fd)
