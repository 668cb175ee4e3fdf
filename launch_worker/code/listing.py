"""What of a folder is sent: everything but `.git` and what its ignore files leave out."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch_worker.code.extract import MAX_ENTRIES
from launch_worker.errors import InputError

#: Stands in the root of the folder, in place of all its `.gitignore` files; the same patterns.
OWN_IGNORE = ".launchignore"
GIT_IGNORE = ".gitignore"


@dataclass(frozen=True)
class Rules:
    """One ignore file. `place` is its folder, relative to the root."""

    place: str
    #: A pathspec.GitIgnoreSpec.
    patterns: Any
    #: No other ignore file counts.
    alone: bool


@dataclass(frozen=True)
class Entry:
    """One folder, file or link. `path` is relative to the root, with slashes."""

    path: str
    mode: int
    size: int = 0
    #: Where a link points, as it is written; '' for what is no link.
    link: str = ""

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.mode)


def list_folder(root: Path) -> list[Entry]:
    """Every entry to send, each folder before what is in it, in an order that is the same everywhere.

    Raises InputError for what cannot be sent.
    """
    entries = []
    for entry in _walk(os.path.realpath(root), "", ()):
        entries.append(entry)
        if len(entries) > MAX_ENTRIES:
            raise InputError(
                f"{root} has more than {MAX_ENTRIES:,} files and folders to send; {exclude_advice(entries, count=True)}"
            )
    if not entries:
        raise InputError(f"there is nothing to send in {root}: it is empty, or all of it is ignored")
    return entries


def exclude_advice(entries: list[Entry], *, count: bool = False) -> str:
    """What to do about too much: the biggest parts by name."""
    parts: Counter[str] = Counter()
    for entry in entries:
        parts["/".join(entry.path.split("/")[:2])] += 1 if count else entry.size
    biggest = [part for part, size in parts.most_common(3) if size]
    shown = ", ".join(f"{part} ({parts[part]:,} {'entries' if count else 'bytes'})" for part in biggest)
    return f"exclude what the job does not need in {OWN_IGNORE}; the biggest are: {shown}"


def _walk(root: str, inside: str, ignores: tuple[Rules, ...]) -> Iterator[Entry]:
    try:
        with os.scandir(os.path.join(root, inside)) as scan:
            found = sorted(scan, key=lambda item: item.name)
        ignores = _ignores_of(root, inside, ignores, {item.name for item in found})
    except OSError as error:
        raise _unreadable(error) from None
    for item in found:
        path = f"{inside}/{item.name}" if inside else item.name
        is_folder = item.is_dir(follow_symlinks=False)
        if item.name == ".git" or _is_ignored(path + "/" * is_folder, ignores):
            continue
        try:
            info = item.stat(follow_symlinks=False)
        except OSError as error:
            raise _unreadable(error) from None
        if is_folder:
            yield Entry(path, info.st_mode)
            yield from _walk(root, path, ignores)
        elif stat.S_ISLNK(info.st_mode):
            yield Entry(path, info.st_mode, link=_checked_link(root, path))
        elif stat.S_ISREG(info.st_mode):
            yield Entry(path, info.st_mode, size=info.st_size)
        else:
            raise InputError(
                f"{path!r} is a socket, a pipe or a device, which cannot be sent; exclude it in {OWN_IGNORE}"
            )


def _ignores_of(root: str, inside: str, ignores: tuple[Rules, ...], names: set[str]) -> tuple[Rules, ...]:
    """The ignore files that count in a folder, the nearest first."""
    alone = not inside and OWN_IGNORE in names
    name = OWN_IGNORE if alone else GIT_IGNORE
    if name not in names or any(rules.alone for rules in ignores):
        return ignores
    from pathspec import GitIgnoreSpec

    text = Path(root, inside, name).read_text(encoding="utf-8", errors="surrogateescape")
    try:
        patterns = GitIgnoreSpec.from_lines(text.splitlines())
    except ValueError as error:
        raise InputError(f"{Path(inside, name)} has a pattern that cannot be read: {error}; mend it") from None
    return (Rules(inside, patterns, alone), *ignores)


def _is_ignored(path: str, ignores: tuple[Rules, ...]) -> bool:
    for rules in ignores:
        below = path[len(rules.place) + 1 :] if rules.place else path
        include = rules.patterns.check_file(below).include
        if include is not None:
            return bool(include)
    return False


def _checked_link(root: str, path: str) -> str:
    target = os.readlink(os.path.join(root, path))
    real = os.path.realpath(os.path.join(root, path))
    if os.path.isabs(target) or not (real + "/").startswith(root.rstrip("/") + "/"):
        raise InputError(
            f"the link {path!r} points outside of the folder, to {target!r}; make it relative, to something inside, "
            f"or exclude it in {OWN_IGNORE}"
        )
    return target


def _unreadable(error: OSError) -> InputError:
    return InputError(f"cannot read {error.filename!r}: {error.strerror}; mend that, or exclude it in {OWN_IGNORE}")
