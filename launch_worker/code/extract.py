"""Unpacks an uploaded archive into an empty folder. Nothing in it is trusted.

A program of its own (`launch_worker.code.unpack` runs it), for Python's reader of archives has more than once been made
to stand still by a few bytes. Standard library only.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import posixpath
import shutil
import sys
import tarfile
import zlib
from pathlib import Path
from typing import IO, BinaryIO, cast

from launch_worker.errors import CodeError

MAX_ENTRIES = 100_000
#: Bytes of an entry's name and link target. The longest path has 4096.
_HEADER_BYTES = 32 << 10


class _HostileError(Exception):
    """The archive is refused; the text says why."""


def extract(archive: BinaryIO, folder: Path, *, limit_bytes: int) -> None:
    """Unpack a `.tar.gz` of plain files, folders and links that stay inside, of at most `limit_bytes`.

    Raises CodeError, OSError.
    """
    try:
        with gzip.GzipFile(fileobj=archive, mode="rb") as unzipped:
            reader = _Metered(unzipped)
            reader.allow(_HEADER_BYTES)
            with tarfile.open(fileobj=cast(IO[bytes], reader), mode="r|", encoding="utf-8") as tar:
                _Extraction(tar, reader, folder, limit_bytes).run()
    except _HostileError as error:
        raise CodeError(f"the upload is refused: {error}") from None
    except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile, ValueError) as error:
        raise CodeError(f"the upload is not an archive that launch-submit made: {error}") from None


class _Metered:
    """A reader with a bound, so that a bomb is refused before it fills the disk."""

    def __init__(self, source: gzip.GzipFile) -> None:
        self._source = source
        self._allowed = 0

    def allow(self, size: int) -> None:
        """Bound the bytes that are read from here to the next call."""
        self._allowed = size

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        self._allowed -= len(data)
        if self._allowed < 0:
            raise _HostileError("an entry's description is larger than any that is needed")
        return data


class _Extraction:
    def __init__(self, tar: tarfile.TarFile, reader: _Metered, folder: Path, limit_bytes: int) -> None:
        self._tar = tar
        self._reader = reader
        self._folder = folder
        self._left = limit_bytes
        self._limit = limit_bytes
        #: Modes of the folders that this extraction made, by path: entries may be put into these only.
        self._made: dict[str, int] = {"": 0o700}
        self._entries = 0

    def run(self) -> None:
        while (member := self._tar.next()) is not None:
            self._entries += 1
            if self._entries > MAX_ENTRIES:
                raise _HostileError(f"it has more than {MAX_ENTRIES:,} entries")
            self._put(member)
            self._reader.allow(_HEADER_BYTES)
        for path, mode in self._made.items():
            if path:
                os.chmod(self._folder / path, mode)

    def _put(self, member: tarfile.TarInfo) -> None:
        name = member.name
        if (
            not name
            or "\0" in name
            or posixpath.normpath(name) != name
            or name.startswith(("/", "../"))
            or name in (".", "..")
        ):
            raise _HostileError(f"the path {name[:200]!r} could lead out of the folder")
        parent = posixpath.dirname(name)
        # Therefore no path leads through a link, or through a folder that was there before.
        if parent not in self._made:
            raise _HostileError(f"the folder of {name[:200]!r} was not made before it")
        target = self._folder / name
        try:
            if member.isdir():
                target.mkdir(mode=0o700)
                # The folder's owner must be able to delete it.
                self._made[name] = member.mode & 0o777 | 0o700
            elif member.issym():
                self._check_link(member, parent)
                target.symlink_to(member.linkname)
            elif member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse():
                self._write(member, target)
            else:
                raise _HostileError(f"{name[:200]!r} is neither a file nor a folder nor a symbolic link")
        except FileExistsError:
            raise _HostileError(f"{name[:200]!r} is in it twice") from None

    def _check_link(self, member: tarfile.TarInfo, parent: str) -> None:
        where = posixpath.normpath(posixpath.join(parent, member.linkname))
        if not member.linkname or member.linkname.startswith("/") or where == ".." or where.startswith("../"):
            raise _HostileError(f"the link {member.name[:200]!r} points out of the folder")

    def _write(self, member: tarfile.TarInfo, target: Path) -> None:
        self._left -= member.size
        if self._left < 0:
            raise _HostileError(
                f"it is larger than {self._limit:,} bytes unpacked; raise LAUNCH_UPLOAD_BYTES of the worker if it "
                "shall be so"
            )
        self._reader.allow(member.size + _HEADER_BYTES)
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            source = self._tar.extractfile(member)
            assert source is not None
            with contextlib.closing(source):
                shutil.copyfileobj(source, file, 1 << 20)
            os.fchmod(fd, member.mode & 0o777 | 0o400)


def main() -> None:
    """`extract LIMIT_BYTES`: from standard input into the working folder; prints why not, as JSON."""
    try:
        extract(sys.stdin.buffer, Path(), limit_bytes=int(sys.argv[1]))
    except CodeError as error:
        print(json.dumps({"refused": str(error)}))
    except MemoryError:
        print(json.dumps({"refused": "the upload is refused: it takes too much memory to unpack"}))
    except OSError as error:
        print(json.dumps({"errno": error.errno, "strerror": error.strerror, "filename": str(error.filename or "")}))
