"""Keeps empty attempt folders for the next attempts, so that a brief job need not create and delete one.

To make a folder with its files and to delete it is most of what a brief job costs its file system: some file systems
look for a free inode through all that were deleted in the last minute. To rename a folder costs a tenth of that.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import time
from collections import deque
from typing import NamedTuple

from launch_worker.outputs.outgoing import FILES, OUTPUTS
from launch_worker.runners.talk_folder import TALK
from launch_worker.untrusted.plain_files import open_plain

#: Names of the files that each attempt of a process has in its folder, beside TALK.
OUTPUT = "output"
CONFIG = "config.json"
_CONTENT = {CONFIG, TALK}
#: Number of folders kept at most.
_MOST = 16
#: Free bytes of a disk that no job fills within a second: before there is room ahead of a job's output.
_PLENTY_BYTES = 8 << 30
#: Seconds between two looks at the free bytes.
_LOOK_EVERY_S = 0.1
#: Tick, nanoseconds, of the coarsest clock of a file system.
_CLOCK_NS = 3 * 10**9


class ReusableFolder(NamedTuple):
    """A folder that an attempt left, and the facts of it then."""

    path: str
    config_bytes: int
    #: Facts of the folder that change when anything is done in it: mode, user, time of change.
    folder: tuple[int, int, int]
    #: Facts of its talk folder: inode, mode, user, time of change.
    talk: tuple[int, int, int, int]
    #: The same facts of the folder of its outputs, and of the job's folder in it; none where outputs are not kept.
    outputs: tuple[int, ...]
    #: Whether the file clock has ticked, so that a new change is distinguishable from the last.
    is_settled: bool


class ReusableFolders:
    """The folders of one worker. Thread-safe."""

    def __init__(self, folder: str, *, has_outputs: bool = False) -> None:
        """`has_outputs`: whether a folder of an attempt has one for outputs."""
        self._folder = folder
        self._has_outputs = has_outputs
        self._kept: deque[ReusableFolder] = deque()
        self._numbers = itertools.count()
        self._plenty_until = 0.0

    @property
    def is_disk_short(self) -> bool:
        """Whether the disk may be full before a job's output has room ahead. Raises OSError."""
        now = time.monotonic()
        if now < self._plenty_until:
            return False
        disk = os.statvfs(os.path.dirname(self._folder))
        if disk.f_bavail * disk.f_frsize < _PLENTY_BYTES:
            return True
        self._plenty_until = now + _LOOK_EVERY_S
        return False

    def take(self, path: str) -> ReusableFolder | None:
        """Move a kept folder to `path`; returns None when there is none. Its `config.json` still has the old content.

        On a full disk no folder is reused: a job would start that has no room. Raises OSError.
        """
        if not self._kept or self.is_disk_short:
            return None
        try:
            kept = self._kept.pop()
            os.rename(kept.path, path)
        except (IndexError, OSError):
            return None
        last = max(kept.folder[-1], kept.talk[-1], *kept.outputs[3::4])
        return kept._replace(is_settled=time.time_ns() - last > _CLOCK_NS)

    def keep(self, path: str, *, config_bytes: int, taken: ReusableFolder | None) -> bool:
        """Keep a folder for reuse, with its output emptied; returns False when it is not as it was made.

        `taken`: what `take` returned for the folder.
        """
        if len(self._kept) >= _MOST:
            return False
        kept = f"{self._folder}/{next(self._numbers)}"
        try:
            found = _look(path, config_bytes, has_outputs=self._has_outputs)
            is_as_taken = taken is not None and found[2:5] == taken[2:5]
            if taken is None or not (taken.is_settled and is_as_taken):
                _check(path, found)
            config = os.lstat(f"{path}/{CONFIG}")
            if not stat.S_ISREG(config.st_mode) or (config.st_nlink, config.st_size) != (1, config_bytes):
                return False
            _empty(f"{path}/{OUTPUT}")
            try:
                os.rename(path, kept)
            except FileNotFoundError:
                os.mkdir(self._folder, 0o700)
                os.rename(path, kept)
        except OSError:
            return False
        self._kept.append(found._replace(path=kept))
        return True


def _empty(path: str) -> None:
    """Empty a file, if it is there. Raises OSError for one that is no plain file, or has another name too."""
    try:
        fd = open_plain(path, os.O_WRONLY)
    except FileNotFoundError:
        return
    try:
        found = os.fstat(fd)
        if found.st_nlink != 1:
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK), path)
        if found.st_size or found.st_blocks:
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def _look(path: str, config_bytes: int, *, has_outputs: bool) -> ReusableFolder:
    folder, talk = os.lstat(path), os.lstat(f"{path}/{TALK}")
    outputs = (os.lstat(f"{path}/{OUTPUTS}"), os.lstat(f"{path}/{OUTPUTS}/{FILES}")) if has_outputs else ()
    return ReusableFolder(
        path,
        config_bytes,
        # Not the folder's ctime, which is that of its rename.
        folder=(folder.st_mode, folder.st_uid, folder.st_mtime_ns),
        talk=(talk.st_ino, talk.st_mode, talk.st_uid, talk.st_ctime_ns),
        outputs=tuple(fact for of in outputs for fact in (of.st_ino, of.st_mode, of.st_uid, of.st_ctime_ns)),
        is_settled=True,
    )


def _check(path: str, found: ReusableFolder) -> None:
    """Raises OSError for a folder that is not as a new one with its files."""
    made = (stat.S_IFDIR | 0o700, os.geteuid())
    is_as_made = found.folder[:2] == found.talk[1:3] == made and found.outputs[1:3] in ((), made)
    content = _CONTENT
    if found.outputs:
        outputs = f"{path}/{OUTPUTS}"
        is_as_made = is_as_made and found.outputs[5:7] == made and os.listdir(outputs) == [FILES]
        is_as_made = is_as_made and not os.listdir(f"{outputs}/{FILES}")
        content = _CONTENT | {OUTPUTS}
    if not is_as_made or set(os.listdir(path)) - {OUTPUT} != content or os.listdir(f"{path}/{TALK}"):
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
