"""Lets one thread of all workers of a machine copy and remove a container at a time.

Docker (20.10) mounts a container's volumes into its file system while it gives or takes an archive of it. Where it
removes the container meanwhile it deletes what is in them, folders of the machine too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
import zlib
from collections.abc import Iterator

from launch_worker.errors import StartError

#: Name of the file, in the folder that all workers of a machine share, of which each container has a byte to lock.
LOCK = "containers.lock"
#: Seconds to wait for another one, who may be frozen, and between two tries.
_PATIENCE_S, _AGAIN_S = 60.0, 0.05


@contextlib.contextmanager
def alone_with(container: str, folder: str) -> Iterator[None]:
    """Keep all others away who ask for this too; '' for `folder` keeps nobody away. Raises StartError."""
    if not folder:
        yield
        return
    try:
        fd = os.open(f"{folder}/{LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StartError(f"the worker's folder cannot be written: {error}", worker_fault=True) from None
    try:
        # Of an open file, and not of a process: threads keep each other away as well.
        wanted = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, zlib.crc32(container.encode()), 1, 0)
        give_up = time.monotonic() + _PATIENCE_S
        while True:
            try:
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, wanted)
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    text = f"somebody else on this machine has been removing container {container[:12]} for a minute"
                    raise StartError(text, worker_fault=True) from None
                time.sleep(_AGAIN_S)
        yield
    finally:
        os.close(fd)
