"""Makes one archive of a folder: the same content gives the same bytes, wherever and whenever it is made."""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from launch_worker.code.listing import OWN_IGNORE, Entry, exclude_advice, list_folder
from launch_worker.errors import InputError

#: Size of a folder per size of its archive, at most: enough for text, too little for a bomb.
UNPACKED_FACTOR = 20
_LEVEL = 6


def make_archive(folder: Path, target: BinaryIO, *, limit_bytes: int) -> str:
    """Write the folder's `.tar.gz` to `target`; returns the sha256 of it. Raises InputError for what cannot be sent."""
    if not folder.is_dir():
        raise InputError(f"{str(folder)!r} is not a folder; --upload takes the folder that holds the code")
    entries = list_folder(folder)
    unpacked = sum(entry.size for entry in entries)
    if unpacked > limit_bytes * UNPACKED_FACTOR:
        raise _too_large(folder, limit_bytes, entries)
    bounded = _Bounded(target, limit_bytes)
    try:
        with (
            gzip.GzipFile(filename="", fileobj=bounded, mode="wb", compresslevel=_LEVEL, mtime=0) as zipped,
            tarfile.open(fileobj=zipped, mode="w|", format=tarfile.PAX_FORMAT, encoding="utf-8") as tar,
        ):
            for entry in entries:
                _add(tar, folder, entry)
    except _TooLargeError:
        raise _too_large(folder, limit_bytes, entries) from None
    return bounded.sha256.hexdigest()


def _add(tar: tarfile.TarFile, folder: Path, entry: Entry) -> None:
    info = tarfile.TarInfo(entry.path)
    info.mode = stat.S_IMODE(entry.mode) & 0o777
    if entry.is_folder:
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    elif entry.link:
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.link, 0o777
        tar.addfile(info)
    else:
        info.size = entry.size
        try:
            with (folder / entry.path).open("rb") as file:
                tar.addfile(info, file)
        except OSError as error:
            why = error.strerror or "it became shorter while it was read"
            raise InputError(f"cannot send {entry.path!r}: {why}; try again, or exclude it in {OWN_IGNORE}") from None


class _TooLargeError(Exception):
    pass


class _Bounded:
    """A writer that counts and hashes."""

    def __init__(self, target: BinaryIO, limit_bytes: int) -> None:
        self._target = target
        self._left = limit_bytes
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._left -= len(data)
        if self._left < 0:
            raise _TooLargeError
        self.sha256.update(data)
        return self._target.write(data)

    def flush(self) -> None:
        self._target.flush()


def _too_large(folder: Path, limit_bytes: int, entries: list[Entry]) -> InputError:
    return InputError(
        f"{folder} is too large to send: more than {limit_bytes:,} bytes compressed, or {UNPACKED_FACTOR} times that "
        f"uncompressed (LAUNCH_UPLOAD_BYTES); {exclude_advice(entries)}"
    )


#: Bytes of a piece.
_PIECE = 1 << 16


class Counted:
    """An archive that is read from its beginning, and tells how much of it has been: the bytes until now, and all."""

    def __init__(self, archive: BinaryIO, on_read: Callable[[int, int], None]) -> None:
        self._archive = archive
        self._on_read = on_read
        self._size = archive.seek(0, os.SEEK_END)
        archive.seek(0)

    def __iter__(self) -> Iterator[bytes]:
        return iter(lambda: self.read(_PIECE), b"")

    def read(self, size: int = -1) -> bytes:
        data = self._archive.read(size)
        self._on_read(self._archive.tell(), self._size)
        return data
