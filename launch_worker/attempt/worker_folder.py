"""Keeps a worker's folder on its machine: its attempts' folders, its lock, the reports that Redis has not got."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from functools import cached_property
from io import TextIOWrapper
from pathlib import Path

from launch_worker.attempt.folder import AttemptFolder, _boot_id, is_attempt, undeleted_folder
from launch_worker.attempt.folder_reuse import ReusableFolders
from launch_worker.errors import InputError
from launch_worker.model.run import Record
from launch_worker.runners.process.protocol import SOCKET
from launch_worker.untrusted.ownership import make_ours, why_not_ours
from launch_worker.untrusted.plain_files import open_plain, read_plain
from launch_worker.untrusted.removal import remove_tree

#: Bytes of a file that says whose a folder is, at most.
_MOST_BYTES = 64 << 10


class WorkerFolder:
    """One worker's folder. The process that holds its lock may use and delete it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: TextIOWrapper | None = None
        #: Whether attempts have folders for outputs.
        self.has_outputs = False

    @classmethod
    def create(cls, work_dir: Path, owner: str, *, worker: str = "") -> WorkerFolder:
        """Make a locked folder for the worker with this node name. Raises OSError."""
        # A hidden name until the folder is locked: a neighbour would take it for abandoned.
        hidden = cls(work_dir / "workers" / f".{owner}")
        hidden.path.mkdir(parents=True, mode=0o700)
        try:
            if not hidden.take():
                raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
            (hidden.path / "host").write_text(_this_host())
            (hidden.path / "worker").write_text(worker)
            hidden.path = hidden.path.rename(work_dir / "workers" / owner)
        except OSError:
            hidden.release()
            raise
        return hidden

    @classmethod
    def abandoned(cls, work_dir: Path) -> Iterator[WorkerFolder]:
        """The folders of workers that died with their guards; each is locked for the caller."""
        root = work_dir / "workers"
        for path in sorted(root.iterdir()) if root.is_dir() else ():
            folder = cls(path)
            if not path.name.startswith(".") and path.is_dir() and folder.is_of_this_host() and folder.take():
                yield folder

    @classmethod
    def of_worker(cls, work_dir: Path, worker: str) -> Iterator[WorkerFolder]:
        """The folders of workers with this node name, whose guards may still hold them; not locked."""
        root = work_dir / "workers"
        for path in sorted(root.iterdir()) if root.is_dir() else ():
            folder = cls(path)
            if (path / SOCKET).exists() and folder.worker == worker and folder.is_of_this_host():
                yield folder

    @classmethod
    def has_attempt(cls, work_dir: Path, name: str) -> bool:
        """Whether any worker's folder has the attempt; an adopted attempt may change its folder."""
        return any((path / "runs" / name).exists() for path in (work_dir / "workers").iterdir())

    @property
    def owner(self) -> str:
        return self.path.name

    @property
    def worker(self) -> str:
        try:
            return read_plain(self.path / "worker", most_bytes=_MOST_BYTES).decode()
        except (OSError, ValueError):
            return ""

    def hold(self, lock_fd: int) -> None:
        """Keep the lock by a descriptor that the folder's guard gave."""
        self._lock = os.fdopen(lock_fd, "a")

    def is_of_this_host(self) -> bool:
        """Whether the worker ran on this host; the jobs of another host, on a network folder, cannot be seen."""
        try:
            theirs = read_plain(self.path / "host", most_bytes=_MOST_BYTES).decode().split()
        except (OSError, ValueError):
            return True
        # A container that was made anew has another name on the same boot; a restarted machine has its name.
        return bool(set(theirs) & set(_this_host().split()))

    @property
    def lock_path(self) -> Path:
        return self.path / "lock"

    @property
    def lock_fd(self) -> int:
        assert self._lock is not None
        return self._lock.fileno()

    def take(self) -> bool:
        """Lock the folder; returns False when another process holds the lock."""
        try:
            # Who may open it can lock it.
            lock = os.fdopen(open_plain(self.lock_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "a")
        except OSError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            return False
        self._lock = lock
        return True

    def attempts(self) -> list[AttemptFolder]:
        runs = self.path / "runs"
        paths = sorted(runs.iterdir()) if runs.is_dir() else []
        return [AttemptFolder(path) for path in paths if is_attempt(path.name)]

    def attempt(self, record: Record) -> AttemptFolder:
        """The folder for a claimed attempt, not made yet. Raises InputError for a record that names no attempt."""
        name = f"{record.id}.{record.attempt}.{record.token}"
        if not is_attempt(name):
            raise InputError(f"the record of this run is damaged: {name[:60]!r} cannot be the name of an attempt")
        return AttemptFolder(f"{self.path}/runs/{name}", self._reusable)

    @cached_property
    def _reusable(self) -> ReusableFolders:
        return ReusableFolders(f"{self.path}/spare", has_outputs=self.has_outputs)

    def release(self) -> None:
        """Delete the folder if nothing in it waits to be delivered, and release its lock."""
        if not self.attempts():
            remove_tree(str(self.path))
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def why_not_own(work_dir: Path) -> str:
    """Why other users could write to the folders that workers share; '' when they cannot. Raises OSError."""
    reason = next(filter(None, (make_ours(work_dir / name) for name in ("workers", "code", "logs"))), "")
    # And whatever else is there already: environments, outputs that wait.
    return reason or next(filter(None, (why_not_ours(path) for path in work_dir.iterdir() if path.is_dir())), "")


def delete_undeleted(work_dir: Path) -> list[Path]:
    """Try again to delete what could not be deleted; returns what stays."""
    folder = undeleted_folder(work_dir)
    left = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in left if remove_tree(str(path)) is not None]


def _this_host() -> str:
    return f"{socket.gethostname()}\n{_boot_id()}\n"
