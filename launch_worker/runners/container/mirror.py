"""Keeps a copy of a folder of a running container: a file that has not changed stays as it is in the copy."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from launch_worker.runners.container.engine import Engine
from launch_worker.runners.container.folders import Copied, copy_out, digest_of
from launch_worker.runners.kept_folder import KeptFolder
from launch_worker.untrusted.removal import remove_tree


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
        _merge(new, kept.target, copied)
        return copied.newest_s
    finally:
        remove_tree(str(new))


def _merge(new: Path, target: Path, copied: Copied) -> None:
    """Make `target` as `new` is. Raises OSError."""
    target.mkdir(mode=0o700, exist_ok=True)
    for path in list(_files(target)):
        if path not in copied.files:
            os.unlink(target / path)
    for path, facts in copied.files.items():
        if not _is_same(target / path, facts):
            _put(new / path, target / path, target)


def _files(folder: Path) -> Iterator[str]:
    for parent, _, names in os.walk(folder):
        for name in names:
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
