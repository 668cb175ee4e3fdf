"""Fetches files of a run into a folder of this machine: verified, never outside of it, and not what is there already.

It imports nothing that only Linux has.
"""

from __future__ import annotations

import contextlib
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
from urllib.parse import quote

from launch_worker.errors import DamagedError, InputError, LaunchError
from launch_worker.model.run_files import KeptFile
from launch_worker.outputs.manifest import Link, check_together, why_no_link, why_no_path
from launch_worker.untrusted.text import plain_line

#: Content of a file from a byte on.
Read = Callable[[KeptFile, int], Iterator[bytes]]
#: Contents of several files of one attempt, each taken before the next one.
ReadSome = Callable[[Sequence[KeptFile]], Iterator[tuple[KeptFile, Iterator[bytes]]]]
#: Ways on which files are fetched at once.
_AT_ONCE = 4
#: Bytes of a file that comes together with others, of all of these, and of their names, which are in an address.
_SMALL_BYTES, _SOME_BYTES, _NAMES_BYTES = 256 << 10, 4 << 20, 3000
_PIECE_BYTES = 1 << 20
#: Files that an error names, and bytes of a name that an unfinished file keeps.
_NAMED, _NAME_BYTES = 5, 150


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
        return self.partial_with(self.file.sha256[:12])

    def partial_with(self, word: str) -> Path:
        begin = os.fsencode(self.path.name)[:_NAME_BYTES].decode(errors="ignore")
        return self.path.with_name(f".{begin}.{word}.partial")


def fetch(
    files: Sequence[KeptFile],
    folder: Path,
    read: Read,
    read_some: ReadSome | None = None,
    *,
    replace: bool = False,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Fetched:
    """Have these files in the folder, which is made where it is missing.

    `read_some` reads small files together. `on_bytes` is called with numbers of bytes that are there or have come, from
    several threads; with one below 0 where bytes are to come again. Raises InputError, before anything is fetched, for
    a file that is there with another content, unless such files shall be replaced; and for a link in the way. Raises
    DamagedError for content that is not what was said; LaunchError.
    """
    try:
        targets = [_Target(file, folder / _checked(file)) for file in files]
        check_together(file.path for file in files)
    except ValueError as error:
        raise DamagedError(f"the list of files is damaged: {error}") from None
    try:
        missing = _missing(targets, folder, read, replace=replace, on_bytes=on_bytes)
        folder.mkdir(parents=True, exist_ok=True)
        plain = [one for one in missing if not one.file.link]
        batches = [[one] for one in plain] if read_some is None else list(_batches(plain))
        _each(lambda some: _fetch_some(some, folder, read, read_some, on_bytes), batches)
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


def _batches(targets: Sequence[_Target]) -> Iterator[list[_Target]]:
    """The files in groups that come together; large ones and those that were begun are alone."""
    some: list[_Target] = []
    size = names = 0
    for one in targets:
        name = len(quote(one.file.path)) + len("&path=")
        if one.file.size > _SMALL_BYTES or not one.file.sha256 or _facts(one.partial) is not None:
            yield [one]
            continue
        if some and (size + one.file.size > _SOME_BYTES or names + name > _NAMES_BYTES):
            yield some
            some, size, names = [], 0, 0
        some.append(one)
        size, names = size + one.file.size, names + name
    if some:
        yield some


def _each(work: Callable[[list[_Target]], None], batches: Sequence[list[_Target]]) -> None:
    """Do the work for some at once; the first error ends it."""
    if len(batches) < 2:
        for some in batches:
            work(some)
        return
    over = threading.Event()

    def unless_over(some: list[_Target]) -> None:
        if not over.is_set():
            work(some)

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="files") as pool:
        try:
            for done in [pool.submit(unless_over, some) for some in batches]:
                done.result()
        finally:
            over.set()


def _link(one: _Target, folder: Path) -> None:
    """Make a link; where the system makes none, a copy of the file that it leads to. Raises OSError."""
    one.path.parent.mkdir(parents=True, exist_ok=True)
    _check_parents(one.path, folder)
    made = one.partial_with(secrets.token_hex(4))
    try:
        os.symlink(one.file.link, made)
    except (NotImplementedError, OSError):
        # Windows lets few people make links.
        if one.file.leads_to_folder:
            return
        shutil.copyfile(one.path.parent / one.file.link, made)
    os.replace(made, one.path)


def _fetch_some(
    some: list[_Target], folder: Path, read: Read, read_some: ReadSome | None, on_bytes: Callable[[int], None]
) -> None:
    left, begun = {one.file.path: one for one in some}, 0

    def note(count: int) -> None:
        nonlocal begun
        begun += count
        on_bytes(count)

    if len(some) > 1 and read_some is not None:
        # What goes wrong on the way shows again, or not, when the rest is fetched one by one.
        with contextlib.suppress(LaunchError):
            for file, content in read_some([one.file for one in some]):
                _fetch(left[file.path], folder, lambda _, __, content=content: content, note)  # type: ignore[misc]
                del left[file.path]
                begun = 0
        on_bytes(-begun)
    for one in left.values():
        _fetch(one, folder, read, on_bytes)


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
