"""Fetches files of a run into a folder of this machine: verified, never outside of it, and not what is there already.

It imports nothing that only Linux has.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

from launch_worker.errors import DamagedError, InputError
from launch_worker.model.run_files import KeptFile
from launch_worker.outputs.manifest import Link, check_together, why_no_link, why_no_path
from launch_worker.untrusted.text import plain_line

#: Content of a file from a byte on.
Read = Callable[[KeptFile, int], Iterator[bytes]]
#: Files that are fetched at once: many are small, and each costs a way to the server and back.
_AT_ONCE = 4
_PIECE_BYTES = 1 << 20
#: Files that an error names, and characters of a name that an unfinished file keeps.
_NAMED, _NAME_CHARS = 5, 150


class Fetched(NamedTuple):
    """What became of some files."""

    #: Files and links that are in the folder now, and the bytes of the files.
    files: int
    bytes: int
    #: Number of those that were there before.
    were_there: int


class _Target(NamedTuple):
    """A file, and its place in the folder."""

    file: KeptFile
    path: Path

    @property
    def partial(self) -> Path:
        """The place of an unfinished file: another try goes on with it, if it is to have the same content."""
        return self.path.with_name(f".{self.path.name[:_NAME_CHARS]}.{self.file.sha256[:12]}.partial")


def fetch(
    files: Sequence[KeptFile],
    folder: Path,
    read: Read,
    *,
    replace: bool = False,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Fetched:
    """Have these files in the folder, which is made where it is missing.

    `on_bytes` is called with numbers of bytes that are there or have come, from several threads. Raises InputError,
    before anything is fetched, for a file that is there with another content, unless such files shall be replaced; and
    for a link in the way. Raises DamagedError for content that is not what was said; LaunchError.
    """
    try:
        targets = [_Target(file, folder / _checked(file)) for file in files]
        check_together(file.path for file in files)
    except ValueError as error:
        raise DamagedError(f"the list of files is damaged: {error}") from None
    try:
        missing = _missing(targets, folder, read, replace=replace, on_bytes=on_bytes)
        folder.mkdir(parents=True, exist_ok=True)
        _each(lambda one: _fetch(one, folder, read, on_bytes), [one for one in missing if not one.file.link])
        # At last: nothing is written through a link.
        for one in missing:
            if one.file.link:
                _link(one, folder)
    except OSError as error:
        about = error.filename or folder
        raise InputError(f"{plain_line(str(about))} cannot be written: {error.strerror or error}") from None
    size = sum(file.size for file in files if not file.link)
    return Fetched(len(targets), size, len(targets) - len(missing))


def _checked(file: KeptFile) -> str:
    if why := why_no_link(Link(file.path, file.link)) if file.link else why_no_path(file.path):
        raise ValueError(f"{file.path[:100]!r}: {why}")
    return file.path


def _missing(
    targets: Sequence[_Target], folder: Path, read: Read, *, replace: bool, on_bytes: Callable[[int], None]
) -> list[_Target]:
    """Those that are not there yet. Raises InputError."""
    missing, others = [], []
    for one in targets:
        _check_parents(one.path, folder)
        facts = _facts(one.path)
        if facts is not None and _is_same(one, facts, read):
            on_bytes(0 if one.file.link else one.file.size)
            continue
        if facts is not None and (stat.S_ISDIR(facts.st_mode) or not replace):
            others.append(plain_line(one.file.path))
        missing.append(one)
    if others:
        named = ", ".join(others[:_NAMED]) + (f" and {len(others) - _NAMED:,} more" if len(others) > _NAMED else "")
        what = "a folder there has the name of a file" if replace else "with another content; choose another folder"
        raise InputError(f"{folder} has {named} already, {what}" + ("" if replace else ", or have them replaced"))
    return missing


def _check_parents(path: Path, folder: Path) -> None:
    """Raises InputError where a part of the path below the folder is a link, which may lead anywhere."""
    for parent in path.parents:
        if parent == folder:
            return
        facts = _facts(parent)
        if facts is not None and not stat.S_ISDIR(facts.st_mode):
            what = "a link" if stat.S_ISLNK(facts.st_mode) else "no folder"
            raise InputError(
                f"{plain_line(str(parent))} is {what}, and nothing is written there; choose another folder"
            )


def _facts(path: Path) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_same(one: _Target, facts: os.stat_result, read: Read) -> bool:
    if one.file.link and stat.S_ISLNK(facts.st_mode):
        return os.readlink(one.path) == one.file.link
    if not one.file.sha256 and one.file.link:
        return False
    if not stat.S_ISREG(facts.st_mode) or facts.st_size != one.file.size:
        return False
    with one.path.open("rb") as there:
        if one.file.sha256:
            return _hash(there).hexdigest() == one.file.sha256
        # A saved file, which is small.
        return there.read() == b"".join(read(one.file, 0))


def _hash(file: BinaryIO) -> hashlib._Hash:
    seen = hashlib.sha256()
    while piece := file.read(_PIECE_BYTES):
        seen.update(piece)
    return seen


def _each(work: Callable[[_Target], None], targets: Sequence[_Target]) -> None:
    """Do the work for some at once; the first error ends it."""
    if len(targets) < 2:
        for one in targets:
            work(one)
        return
    over = threading.Event()

    def unless_over(one: _Target) -> None:
        if not over.is_set():
            work(one)

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="files") as pool:
        try:
            for done in [pool.submit(unless_over, one) for one in targets]:
                done.result()
        finally:
            over.set()


def _link(one: _Target, folder: Path) -> None:
    """Make a link; where the system makes none, a copy of the file that it leads to. Raises OSError."""
    one.path.parent.mkdir(parents=True, exist_ok=True)
    _check_parents(one.path, folder)
    made = one.path.with_name(f".{one.path.name[:_NAME_CHARS]}.{secrets.token_hex(4)}.partial")
    try:
        os.symlink(one.file.link, made)
    except (NotImplementedError, OSError):
        # Windows lets few people make links.
        if one.file.leads_to_folder:
            return
        shutil.copyfile(one.path.parent / one.file.link, made)
    os.replace(made, one.path)


def _fetch(one: _Target, folder: Path, read: Read, on_bytes: Callable[[int], None]) -> None:
    one.path.parent.mkdir(parents=True, exist_ok=True)
    _check_parents(one.path, folder)
    is_resumed = _write(one, read, on_bytes)
    if is_resumed is None:
        # What an earlier try had left was no beginning of it.
        is_resumed = _write(one, read, lambda _: None)
    if is_resumed is None:
        raise DamagedError(f"the content of {plain_line(one.file.path)!r} is not what its list says; fetch it again")
    if one.file.mode & 0o100:
        mode = stat.S_IMODE(os.lstat(one.partial).st_mode)
        # Whoever may read it may execute it.
        os.chmod(one.partial, mode | (mode & 0o444) >> 2)
    os.utime(one.partial, ns=(one.file.at * 1000, one.file.at * 1000))
    os.replace(one.partial, one.path)


def _write(one: _Target, read: Read, on_bytes: Callable[[int], None]) -> bool | None:
    """Write the rest of the unfinished file. Returns whether there was a beginning; None for a wrong content."""
    file, facts = one.file, _facts(one.partial)
    if facts is not None and not (stat.S_ISREG(facts.st_mode) and file.sha256 and facts.st_size <= file.size):
        one.partial.unlink()
        facts = None
    with one.partial.open("wb" if facts is None else "r+b") as target:
        seen = _hash(target) if facts is not None else hashlib.sha256()
        place = begun = target.tell()
        on_bytes(place)
        for piece in read(file, place) if place < file.size or not file.sha256 else ():
            target.write(piece)
            seen.update(piece)
            place += len(piece)
            on_bytes(len(piece))
    if place == file.size and (not file.sha256 or seen.hexdigest() == file.sha256):
        return begun > 0
    one.partial.unlink()
    return None
