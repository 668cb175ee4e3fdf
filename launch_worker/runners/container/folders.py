"""Copies a folder out of a container, by the engine's archives.

An engine may be on another machine, and the files in a container belong to users that the worker is not. What a job
made is not trusted: names are checked, bytes and files are counted, and only folders, plain files, and links that stay
in the folder are copied. Links are made at last, so that nothing is written through one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import IO, Any

from launch_worker.errors import EngineAwayError, LaunchError
from launch_worker.runners.container.engine import Engine, FileInContainer
from launch_worker.runners.kept_folder import KeptFolder
from launch_worker.untrusted.removal import remove_tree

_BLOCK = 1 << 20
#: Bytes of an archive that are read beyond twice those that may be kept, for headers and what is passed over.
_SLACK_BYTES = 1 << 30
#: Number of entries that are looked at for each file that may be kept.
_LOOKS = 10
#: Number of files that are named as left out, at most.
_NAMED = 1000
#: Bytes of the path of a link on this machine at most: Linux allows 4095, of which the copy in the making has some.
_MOST_PATH_BYTES = 4000
_TOO_LONG = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)


class UnsettledError(LaunchError):
    """The job changed its folder while it was copied."""


class _DiskError(Exception):
    """This machine's disk refused. No OSError, which the engine's connection raises too."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


@dataclass
class Copied:
    """What was copied of a folder."""

    #: Facts of each file by its path, which another content would change.
    files: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    #: What each symbolic link leads to, by its path.
    links: dict[str, str] = field(default_factory=dict)
    #: Time of the newest change of a file or folder, seconds since 1970 by the clock of the engine's machine.
    newest_s: int = 0
    #: Paths that were not copied, the first of them, and why; and the number of all.
    left_out: list[tuple[str, str]] = field(default_factory=list)
    left_out_count: int = 0
    #: Whether something was not copied because there is too much.
    is_cut: bool = False

    def leave_out(self, path: str, why: str) -> None:
        self.left_out_count += 1
        if len(self.left_out) < _NAMED:
            self.left_out.append((path.encode(errors="backslashreplace").decode(), why))


class Chunks:
    """The chunks of an engine's answer as a file that can be read."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._buffer = b""

    def read(self, size: int) -> bytes:
        parts = [self._buffer]
        have = len(self._buffer)
        while have < size:
            chunk = next(self._chunks, b"")
            if not chunk:
                break
            parts.append(chunk)
            have += len(chunk)
        joined = b"".join(parts)
        data, self._buffer = joined[:size], joined[size:]
        return data


def keep(engine: Engine, container: str, kept: KeptFolder, *, check: Callable[[], None] = lambda: None) -> None:
    """Copy the folder of an ended container, and write down what is not in the copy. Raises as `copy_out`."""
    copied = copy_out(engine, container, kept, check=check)
    kept.left_out.unlink(missing_ok=True)
    if copied is not None and copied.left_out_count:
        known = {"count": copied.left_out_count, "paths": copied.left_out}
        kept.left_out.write_text(json.dumps(known))


def copy_out(
    engine: Engine,
    container: str,
    kept: KeptFolder,
    *,
    at_rest: bool = True,
    check: Callable[[], None] = lambda: None,
) -> Copied | None:
    """Copy a folder, whole or not at all; None where the container has no such folder, or there is no container.

    What is at the target is replaced; it stays where the job has put nothing into the folder. `check` is called between
    pieces, and may raise. The folder of a container that runs is not `at_rest`: it is read twice, and there was an
    instant at which all of it was as it is copied.
    Raises EngineAwayError, NoContainerError, StartError, UnsettledError, OSError.
    """
    found = engine.stat(container, kept.inside)
    if found is None or not found.is_folder or _is_untouched(found):
        return None
    copy = kept.target.with_name(f"{kept.target.name}.partial")
    remove_tree(str(copy))
    os.mkdir(copy, 0o700)
    try:
        copied = _Copying(engine, container, kept, copy, check).copy()
        if not at_rest and _Copying(engine, container, kept, None, check).copy() != copied:
            raise UnsettledError(f"{kept.inside} was changed while it was copied")
        remove_tree(str(kept.target))
        os.rename(copy, kept.target)
    except _DiskError as error:
        remove_tree(str(copy))
        raise error.cause from None
    except BaseException:
        remove_tree(str(copy))
        raise
    return copied


def _is_untouched(folder: FileInContainer) -> bool:
    """Whether nothing has been made in a folder since it was made by `into.archive_of`, which gives it the time 0."""
    try:
        return datetime.fromisoformat(folder.modified.replace("Z", "+00:00")).timestamp() == 0
    except ValueError:
        return False  # it has a fraction of a second


class _Copying:
    """One folder on its way out of a container; without a target it is only read."""

    def __init__(
        self, engine: Engine, container: str, kept: KeptFolder, target: Path | None, check: Callable[[], None]
    ) -> None:
        self._engine = engine
        self._container = container
        self._kept = kept
        self._target = target
        self._check = check
        self._copied = Copied()
        self._bytes = 0
        self._seen_bytes = 0
        #: Hard links to files that were passed over.
        self._links: list[str] = []

    def copy(self) -> Copied:
        self._read(self._kept.inside, self._take_entry)
        for path in self._links:
            # In an archive of its own it is no link.
            self._read(f"{self._kept.inside}/{path}", partial(self._take_link, path))
        if self._target is not None:
            make_links(self._target, self._copied.links)
        return self._copied

    # -- inside ----------------------------------------------------------------------------------------------------

    def _read(self, path: str, take: Callable[[tarfile.TarFile, tarfile.TarInfo], None]) -> None:
        """Take each entry of the archive of a path."""
        with self._engine.stream(f"/containers/{self._container}/archive", {"path": path}) as chunks:
            source: Any = Chunks(chunks)
            try:
                with tarfile.open(fileobj=source, mode="r|", bufsize=_BLOCK) as archive:
                    looks = _LOOKS * self._kept.max_files
                    while (entry := archive.next()) is not None:
                        archive.members.clear()  # type: ignore[attr-defined]
                        self._check()
                        looks -= 1
                        self._seen_bytes += entry.size
                        if looks < 0 or self._seen_bytes > 2 * self._kept.max_bytes + _SLACK_BYTES:
                            name = self._path_of(entry)
                            self._copied.leave_out(name or ".", "there is too much, and the rest was not looked at")
                            self._copied.is_cut = True
                            return
                        take(archive, entry)
            except tarfile.TarError as error:
                raise EngineAwayError(f"the container engine broke an archive off: {error}") from None

    def _path_of(self, entry: tarfile.TarInfo) -> str:
        """The path of an entry in the folder; '' for the folder itself."""
        return entry.name.rstrip("/").partition("/")[2]

    def _take_entry(self, archive: tarfile.TarFile, entry: tarfile.TarInfo) -> None:
        path, copied = self._path_of(entry), self._copied
        if entry.isdir() or self._kept.wanted(path):
            copied.newest_s = max(copied.newest_s, int(entry.mtime))
        if not path:
            return
        if "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
            copied.leave_out(path, "its path leads out of the folder")
            return
        try:
            self._make(archive, entry, path)
        except _DiskError as error:
            if error.cause.errno not in _TOO_LONG:
                raise
            copied.leave_out(path, "its name is too long")

    def _make(self, archive: tarfile.TarFile, entry: tarfile.TarInfo, path: str) -> None:
        if entry.isdir():
            if self._target is not None:
                with _disk():
                    os.makedirs(self._target / path, 0o700, exist_ok=True)
        elif not self._kept.wanted(path):
            return
        elif entry.islnk():
            self._make_link(entry, path)
        elif entry.isreg():
            data = archive.extractfile(entry)
            assert data is not None
            self._write(entry, data, path)
        elif not entry.issym():
            self._copied.leave_out(path, "it is no plain file")
        elif not self._kept.keeps_link(path, entry.linkname):
            self._copied.leave_out(path, "it is an absolute link, or one that leads out of the folder")
        elif len(os.fsencode(f"{self._kept.target}/{path}")) > _MOST_PATH_BYTES:
            self._copied.leave_out(path, "its name is too long")
        elif len(self._copied.links) >= self._kept.max_files:
            self._copied.leave_out(path, f"there are more than {self._kept.max_files:,} links")
        else:
            self._copied.links[path] = entry.linkname

    def _make_link(self, entry: tarfile.TarInfo, path: str) -> None:
        source = entry.linkname.partition("/")[2]
        if source not in self._copied.files:
            self._links.append(path)
        elif self._has_room(path, self._copied.files[source][0]):
            if self._target is not None:
                with _disk():
                    os.makedirs((self._target / path).parent, 0o700, exist_ok=True)
                    os.link(self._target / source, self._target / path)
            self._copied.files[path] = self._copied.files[source]

    def _take_link(self, path: str, archive: tarfile.TarFile, entry: tarfile.TarInfo) -> None:
        data = archive.extractfile(entry) if entry.isreg() else None
        if data is not None:
            self._write(entry, data, path)

    def _write(self, entry: tarfile.TarInfo, data: IO[bytes], path: str) -> None:
        if not self._has_room(path, entry.size):
            return
        digest, left = hashlib.blake2b(digest_size=16), entry.size
        with contextlib.nullcontext() if self._target is None else _new_file(self._target / path, entry) as file:
            while left:
                block = data.read(min(_BLOCK, left))
                if not block:
                    raise tarfile.ReadError("it ends within a file")
                digest.update(block)
                if file is not None:
                    with _disk():
                        _write_all(file, block)
                left -= len(block)
                self._check()
        self._copied.files[path] = (entry.size, int(entry.mtime), digest.digest())

    def _has_room(self, path: str, size: int) -> bool:
        if len(self._copied.files) >= self._kept.max_files:
            self._copied.leave_out(path, f"there are more than {self._kept.max_files:,} files")
        elif self._bytes + size > self._kept.max_bytes:
            self._copied.leave_out(path, f"the files have more than {self._kept.max_bytes:,} bytes")
        else:
            self._bytes += size
            return True
        self._copied.is_cut = True
        return False


def make_links(folder: Path, links: Mapping[str, str]) -> None:
    """Make symbolic links in a folder that has none; what a job has put in a folder's place is gone. Raises OSError."""
    for path, target in links.items():
        with contextlib.suppress(FileExistsError, NotADirectoryError):
            os.makedirs((folder / path).parent, 0o700, exist_ok=True)
            os.symlink(target, folder / path)


def digest_of(path: Path) -> bytes:
    """The digest of a file's content, as `Copied.files` has it. Raises OSError."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.digest()


@contextlib.contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _DiskError(error) from None


@contextlib.contextmanager
def _new_file(path: Path, entry: tarfile.TarInfo) -> Iterator[IO[bytes]]:
    with _disk():
        os.makedirs(path.parent, 0o700, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(fd, "wb", buffering=0) as file:
        yield file
        with _disk():
            os.ftruncate(fd, entry.size)
            os.fchmod(fd, (entry.mode & 0o777) | 0o400)
            os.utime(fd, (entry.mtime, entry.mtime))


def _write_all(file: IO[bytes], block: bytes) -> None:
    """Write a block; zeros take no room on the disk, as in the job's own file."""
    if not block.strip(b"\0"):
        file.seek(len(block), os.SEEK_CUR)
        return
    view = memoryview(block)
    while view:
        view = view[file.write(view) :]
