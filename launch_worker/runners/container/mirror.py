"""Keeps a copy of a folder of a running container: a file that has not changed stays as it is in the copy."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from launch_worker.errors import NoContainerError
from launch_worker.runners.container.engine import Engine
from launch_worker.runners.container.folders import Copied, UnsettledError, copy_out, digest_of, make_links
from launch_worker.runners.container.life import Life
from launch_worker.runners.kept_folder import KeptFolder, Refreshed
from launch_worker.untrusted.removal import remove_tree

#: Number of times that a folder is copied anew because the job has changed it meanwhile.
_TRIES = 3


class Mirror:
    """The copy of one folder of a container. Thread-safe."""

    def __init__(self, kept: KeptFolder, life: Life, engine: Engine) -> None:
        self.kept = kept
        self._life = life
        self._engine = engine
        self._refreshing = threading.Lock()
        #: Answer for the container that has ended; None before.
        self._last: Refreshed | None = None

    def refresh(self, *, at_rest: bool = False, check: Callable[[], None] = lambda: None) -> Refreshed:
        """Bring the copy up to date, of one instant of the folder; not any more once that was done `at_rest`.

        Raises as `copy_out`: UnsettledError for a folder that the job does not leave alone for long enough.
        """
        with self._refreshing:
            if self._last is not None:
                return self._last
            if not self._life.container:
                raise NoContainerError("the container is not found yet")
            for left in range(_TRIES - 1, -1, -1):
                try:
                    newest_s = refresh(self._engine, self._life.container, self.kept, at_rest=at_rest, check=check)
                    break
                except UnsettledError:
                    if not left:
                        raise
            # The engine tells whole seconds.
            changed_ns = (newest_s + 1) * 1_000_000_000 if newest_s else 0
            if not at_rest:
                return Refreshed(changed_ns, None)
            end = self._life.end
            self._last = Refreshed(changed_ns, None if end is None else end.finished_ns or None)
            return self._last


def refresh(
    engine: Engine, container: str, kept: KeptFolder, *, at_rest: bool, check: Callable[[], None] = lambda: None
) -> int:
    """Bring the copy up to date, in one state of the folder; returns the time of its newest change.

    The time is in seconds since 1970, by the clock of the engine's machine; 0 where nothing is known of the folder, and
    the copy stays as it is. Raises as `copy_out`.
    """
    new = kept.target.with_name(f"{kept.target.name}.new")
    try:
        copied = copy_out(engine, container, replace(kept, target=new), at_rest=at_rest, check=check)
        if copied is None:
            return 0
        if copied.is_cut:
            path, why = copied.left_out[-1]
            raise OSError(errno.EFBIG, f"no state of {kept.inside} can be kept: {path}: {why}")
        _merge(new, kept.target, copied)
        return copied.newest_s
    finally:
        remove_tree(str(new))


def _merge(new: Path, target: Path, copied: Copied) -> None:
    """Make `target` as `new` is. Raises OSError."""
    target.mkdir(mode=0o700, exist_ok=True)
    for path in list(_files(target)):
        if path not in copied.files or (target / path).is_symlink():
            os.unlink(target / path)
    for path, facts in copied.files.items():
        if not _is_same(target / path, facts):
            _put(new / path, target / path, target)
    for path in copied.links:
        if (target / path).is_dir():
            # It has no files any more.
            remove_tree(str(target / path))
    make_links(target, copied.links)


def _files(folder: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        for name in (*names, *(name for name in folders if os.path.islink(f"{parent}/{name}"))):
            yield os.path.relpath(f"{parent}/{name}", folder)


def _is_same(path: Path, facts: tuple[object, ...]) -> bool:
    try:
        found = os.lstat(path)
        return stat.S_ISREG(found.st_mode) and found.st_size == facts[0] and digest_of(path) == facts[2]
    except (FileNotFoundError, NotADirectoryError):
        return False


def _put(source: Path, path: Path, top: Path) -> None:
    """Move a file to its place. A folder that stands there has no files any more."""
    if path.is_dir():
        remove_tree(str(path))
    for parent in [*path.relative_to(top).parents][-2::-1]:
        if not (top / parent).is_dir():
            os.mkdir(top / parent, 0o700)
    os.replace(source, path)
