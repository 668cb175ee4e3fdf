"""Lists the files of a folder that are sent: in a checkout those that git names, else by its `.gitignore` files."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from launch_worker.code.extract import MAX_ENTRIES
from launch_worker.code.ignoring import IgnoreFile, is_ignored
from launch_worker.errors import InputError

#: File in the root of the folder that replaces all its `.gitignore` files, with the same patterns.
OWN_IGNORE = ".launchignore"
GIT_IGNORE = ".gitignore"
#: Options of git for a folder that a stranger made: its settings must start no program.
_HARMLESS = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")


@dataclass(frozen=True)
class Entry:
    """One folder, file or link. `path` is relative to the root, with slashes."""

    path: str
    mode: int
    size: int = 0
    #: Target of a link, as it is written; '' for no link.
    link: str = ""

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.mode)


def list_folder(root: Path) -> list[Entry]:
    """Every entry to send, each folder before what is in it, in an order that is the same everywhere.

    Raises InputError for what cannot be sent.
    """
    entries = []
    for entry in _entries(os.path.realpath(root)):
        entries.append(entry)
        if len(entries) > MAX_ENTRIES:
            raise InputError(
                f"{root} has more than {MAX_ENTRIES:,} files and folders to send; {exclude_advice(entries, count=True)}"
            )
    if not entries:
        raise InputError(
            f"there is nothing to send in {root}: it is empty, or all of it is ignored; a {OWN_IGNORE} in it takes the "
            f"place of every {GIT_IGNORE}"
        )
    entries.sort(key=lambda entry: entry.path.split("/"))
    return entries


def exclude_advice(entries: list[Entry], *, count: bool = False) -> str:
    """Advice for a folder that is too large: its biggest parts by name."""
    parts: Counter[str] = Counter()
    for entry in entries:
        parts["/".join(entry.path.split("/")[:2])] += 1 if count else entry.size
    biggest = [part for part, size in parts.most_common(3) if size]
    shown = ", ".join(f"{part} ({parts[part]:,} {'entries' if count else 'bytes'})" for part in biggest)
    return f"exclude what the job does not need in {OWN_IGNORE}; the biggest are: {shown}"


def _entries(root: str) -> Iterator[Entry]:
    try:
        own = IgnoreFile.read(os.fsencode(os.path.join(root, OWN_IGNORE)))
        if own is not None:
            yield from _walk(root, "", (own,), alone=True)
            return
        listed = _by_git(root)
        if listed is not None:
            yield from _listed(root, "", listed, ())
            return
        outer = _outer_rules(root)
    except OSError as error:
        raise _unreadable(error) from None
    yield from _walk(root, "", outer)


def _walk(root: str, inside: str, ignores: tuple[IgnoreFile, ...], *, alone: bool = False) -> Iterator[Entry]:
    """The entries below a folder that no ignore file excludes, of those known and those below; `alone`: no others."""
    folder = os.path.join(root, inside)
    try:
        with os.scandir(folder) as scan:
            found = sorted(scan, key=lambda item: item.name)
        names = {item.name for item in found}
        if not alone and GIT_IGNORE in names:
            more = IgnoreFile.read(os.fsencode(os.path.join(root, inside, GIT_IGNORE)), folder=_bytes(root, inside))
            ignores = ignores if more is None else (more, *ignores)
    except OSError as error:
        raise _unreadable(error) from None
    for item in found:
        path = f"{inside}/{item.name}" if inside else item.name
        is_folder = item.is_dir(follow_symlinks=False)
        if item.name == ".git" or is_ignored(_bytes(root, path), ignores, is_folder=is_folder):
            continue
        entry = _entry(root, path)
        if entry is None:
            continue
        yield entry
        if is_folder:
            listed = None if alone or not os.path.lexists(os.path.join(root, path, ".git")) else _by_git(item.path)
            if listed is None:
                yield from _walk(root, path, ignores, alone=alone)
            else:
                yield from _listed(root, path, listed, ignores)


def _listed(root: str, inside: str, listed: list[tuple[str, bool]], outer: tuple[IgnoreFile, ...]) -> Iterator[Entry]:
    """Git's list of a checkout, with its folders. Untracked entries are in it only if `outer` does not ignore them."""
    given: dict[str, bool] = {}
    folders: dict[str, bool] = {inside: True}

    def is_folder(path: str) -> bool:
        """Whether the path is a folder, and leads through no link."""
        if path not in folders:
            parent = path.rpartition("/")[0]
            folders[path] = is_folder(parent) and stat.S_ISDIR(os.lstat(os.path.join(root, path)).st_mode)
        return folders[path]

    for name, is_tracked in listed:
        path = f"{inside}/{name.rstrip('/')}" if inside else name.rstrip("/")
        parent = path.rpartition("/")[0]
        try:
            if path in given or not is_folder(parent):
                continue
            if not is_tracked and _is_below_ignored(root, inside, path, outer):
                continue
            given[path] = True
            entry = _entry(root, path)
        except (FileNotFoundError, NotADirectoryError):
            continue  # git still tracks what was deleted
        except OSError as error:
            raise _unreadable(error) from None
        # A folder in git's list is another repository (a submodule): it is listed by itself.
        nested = _by_git(os.path.join(root, path)) if entry is not None and entry.is_folder else []
        if entry is None or (entry.is_folder and not nested):
            continue
        while parent != inside and parent not in given:
            given[parent] = True
            above = _entry(root, parent)
            assert above is not None
            yield above
            parent = parent.rpartition("/")[0]
        yield entry
        if nested:
            yield from _listed(root, path, nested, (*_rules_between(root, inside, path), *outer))


def _entry(root: str, path: str) -> Entry | None:
    """The entry of a path; None for one that is gone meanwhile. Raises InputError."""
    try:
        info = os.lstat(os.path.join(root, path))
        if stat.S_ISDIR(info.st_mode):
            return Entry(path, info.st_mode)
        if stat.S_ISLNK(info.st_mode):
            return Entry(path, info.st_mode, link=_checked_link(root, path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(error) from None
    if stat.S_ISREG(info.st_mode):
        return Entry(path, info.st_mode, size=info.st_size)
    raise InputError(f"{path!r} is a socket, a pipe or a device, which cannot be sent; exclude it in {OWN_IGNORE}")


# -- git -----------------------------------------------------------------------------------------------------------


def _by_git(folder: str) -> list[tuple[str, bool]] | None:
    """The paths that git would take of a checkout, and whether it tracks each. None: no checkout, or git failed."""
    git = shutil.which("git")
    if git is None or _top_of(folder) is None:
        return None
    words = [git, "-C", folder, *_HARMLESS, "ls-files", "-t", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(words, env=_git_environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError:
        return None
    if done.returncode:
        return None
    unread = re.search(rb"^warning: could not open directory (.*)$", done.stderr, re.MULTILINE)
    if unread:
        what = unread[1].decode("utf-8", "replace")
        raise InputError(f"cannot read {what}; mend that, or exclude it in {OWN_IGNORE}")
    lines = [line for line in done.stdout.split(b"\0") if line]
    return [(os.fsdecode(line[2:]), not line.startswith(b"?")) for line in lines]


def _git_environment() -> dict[str, str]:
    """The environment without variables that name another repository than the folder's."""
    kept = ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM")
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or name in kept}
    return env | {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}


def _top_of(folder: str) -> str | None:
    """The checkout that the folder is in."""
    while True:
        if os.path.lexists(os.path.join(folder, ".git")):
            return folder
        parent = os.path.dirname(folder)
        if parent == folder:
            return None
        folder = parent


def _outer_rules(root: str) -> tuple[IgnoreFile, ...]:
    """The ignore files above a folder of a checkout, where there is no git to be asked. Raises OSError, InputError."""
    top = _top_of(root)
    if top is None:
        return ()
    exclude = IgnoreFile.read(os.fsencode(os.path.join(top, ".git", "info", "exclude")), folder=os.fsencode(top))
    rules = () if exclude is None else (exclude,)
    inside = os.path.relpath(root, top) if root != top else ""
    if inside and _is_below_ignored(top, "", inside, rules, also_inside=True):
        raise InputError(f"{root} is ignored in {top}; a {OWN_IGNORE} in it takes the place of every {GIT_IGNORE}")
    return (*_rules_between(top, "", inside), *rules)


def _rules_between(root: str, above: str, below: str) -> tuple[IgnoreFile, ...]:
    """The ignore files of folders from `above` to the one that `below` is in, the nearest first. Raises OSError."""
    rules: list[IgnoreFile] = []
    while below != above:
        below = below.rpartition("/")[0]
        file = IgnoreFile.read(os.fsencode(os.path.join(root, below, GIT_IGNORE)), folder=_bytes(root, below))
        rules += [] if file is None else [file]
    return tuple(rules)


def _is_below_ignored(
    root: str, above: str, path: str, ignores: tuple[IgnoreFile, ...], *, also_inside: bool = False
) -> bool:
    """Whether the path, or a folder that leads there from `above`, is ignored."""
    parts = path[len(above) + 1 :].split("/") if above else path.split("/")
    so_far = above
    for number, part in enumerate(parts):
        rules = (
            (*_rules_between(root, above, f"{so_far}/{part}" if so_far else part), *ignores) if also_inside else ignores
        )
        so_far = f"{so_far}/{part}" if so_far else part
        is_folder = also_inside or number < len(parts) - 1 or os.path.isdir(os.path.join(root, so_far))
        if is_ignored(_bytes(root, so_far), rules, is_folder=is_folder):
            return True
    return False


def _bytes(root: str, path: str) -> bytes:
    return os.fsencode(os.path.join(root, path) if path else root)


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
