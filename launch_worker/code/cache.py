"""Keeps fetched code for all workers of a machine: locked while in use; what was unused longest is deleted."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from launch_worker.code.patience import Patience
from launch_worker.untrusted.removal import remove_tree

_HALF_MADE_S = 86400.0
#: Name of the file in an attempt's folder with the name of an entry that the attempt uses beyond its start.
HELD = "environment"


@contextlib.contextmanager
def locked(entry: Path, *, patience: Patience, shared: bool = False) -> Iterator[None]:
    """Hold the lock of a cache's entry, and mark it as used now."""
    entry.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        fd = _try_lock(_lock_of(entry), operation)
        if fd is not None:
            break
        patience.pause()
    try:
        os.utime(fd)
        yield
    finally:
        os.close(fd)


def throw_away_unused(folder: Path, *, keep: int) -> None:
    """Delete the entries of the folder that were not used for the longest time, beyond `keep`, and are not in use.

    Half-made entries of workers that were killed are deleted too.
    """
    for partial in folder.glob("*.partial"):
        with contextlib.suppress(FileNotFoundError):
            if partial.stat().st_mtime < time.time() - _HALF_MADE_S:
                remove(partial)
    for _, lock in _by_age(folder)[: -keep or None]:
        with _locked_now(lock) as entry:
            if entry is not None:
                remove(entry)
                lock.unlink(missing_ok=True)


def throw_away_old(
    folder: Path, *, age_s: float, is_full: Callable[[], bool], is_held: Callable[[Path], bool]
) -> Iterator[Path]:
    """Delete the entries of the folder that were unused for so many seconds, and while it `is_full` the next oldest.

    None is deleted that is locked, or `is_held`. Yields each before it is asked again whether the folder is full.
    """
    for used_s, lock in _by_age(folder):
        if used_s > time.time() - age_s and not is_full():
            return
        with _locked_now(lock) as entry:
            if entry is None or is_held(entry):
                continue
            remove(entry)
            lock.unlink(missing_ok=True)
            yield entry


def _by_age(folder: Path) -> list[tuple[float, Path]]:
    """The locks of the folder's entries, with the times of their last uses, the oldest first."""
    ages = []
    for lock in folder.glob("*.lock"):
        with contextlib.suppress(FileNotFoundError):
            ages.append((lock.stat().st_mtime, lock))
    return sorted(ages)


@contextlib.contextmanager
def _locked_now(lock: Path) -> Iterator[Path | None]:
    """Hold the lock of an entry, and give the entry; None where another process has the lock."""
    fd = _try_lock(lock, fcntl.LOCK_EX)
    try:
        yield None if fd is None else lock.with_suffix("")
    finally:
        if fd is not None:
            os.close(fd)


def remove(entry: Path) -> None:
    """Delete an entry, a file or a folder; the caller holds its lock."""
    if entry.is_dir() and not entry.is_symlink():
        remove_tree(str(entry))
    else:
        entry.unlink(missing_ok=True)


def _lock_of(entry: Path) -> Path:
    return entry.with_name(entry.name + ".lock")


def _try_lock(path: Path, operation: int) -> int | None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, operation | fcntl.LOCK_NB)
        # The entry may have been deleted, its lock file too: a lock on a deleted file protects nothing.
        if os.path.samestat(os.fstat(fd), os.stat(path)):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(fd)
    return None
