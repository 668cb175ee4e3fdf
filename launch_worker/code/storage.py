"""Keeps uploads between submitter and worker: in Redis, or in any folder that fsspec knows."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from launch_worker.errors import CodeError, LaunchError
from launch_worker.objects import Objects
from launch_worker.settings import UPLOADS_IN_REDIS, Settings
from launch_worker.store.store import Store

_CHUNK = 1 << 20


class Readable(Protocol):
    """A source of bytes, as a file."""

    def read(self, size: int, /) -> bytes: ...


class Storage(Protocol):
    """Archives by the sha256 of their content."""

    def renew(self, sha256: str) -> bool:
        """Begin its time anew. Returns whether the archive is there, whole."""

    def put(self, sha256: str, archive: Readable) -> None:
        """Keep the archive; it is not visible before it is whole."""

    def get(self, sha256: str, target: BinaryIO, *, limit_bytes: int) -> bool:
        """Write the archive to `target`; False when it is missing. Raises CodeError for other or too much content."""


def storage_of(settings: Settings, store: Store) -> Storage:
    """The storage that LAUNCH_UPLOAD_URL names."""
    if settings.upload_url == UPLOADS_IN_REDIS:
        return RedisStorage(store, settings.retention_s)
    return FolderStorage(settings.upload_url)


@dataclass(frozen=True)
class RedisStorage:
    """Redis, in chunks, so that one command never takes long. Archives expire."""

    store: Store
    keep_s: float

    def renew(self, sha256: str) -> bool:
        return self.store.renew_upload(sha256, keep_s=self.keep_s) > 0

    def put(self, sha256: str, archive: Readable) -> None:
        chunks = size = 0
        while data := archive.read(_CHUNK):
            self.store.put_upload_chunk(sha256, chunks, data)
            chunks, size = chunks + 1, size + len(data)
        if not self.store.keep_upload(sha256, chunks=chunks, size=size, keep_s=self.keep_s):
            raise LaunchError("the upload took too long, and its first parts were deleted again; submit it again")

    def get(self, sha256: str, target: BinaryIO, *, limit_bytes: int) -> bool:
        chunks = self.store.renew_upload(sha256, keep_s=self.keep_s)
        checked = _Checked(sha256, target, limit_bytes)
        for number in range(chunks):
            data = self.store.upload_chunk(sha256, number)
            if data is None:
                return False
            checked.write(data)
        if chunks and not checked.is_right():
            # Without this the next submit would take the archive for whole, and nothing would mend it.
            self.store.forget_upload(sha256)
            raise _damaged(sha256)
        return chunks > 0


class FolderStorage:
    """A folder that every submitter and worker reaches: `file:///shared/uploads`, `s3://bucket/prefix` …"""

    def __init__(self, url: str) -> None:
        self._objects = Objects(url, setting="LAUNCH_UPLOAD_URL", what="uploads")
        self._files = self._objects.files

    def renew(self, sha256: str) -> bool:
        path = self._objects.path(_name(sha256))
        with self._objects.errors("read"):
            if not self._files.isfile(path):
                return False
            # Touched where possible, so that a clean-up of old files keeps those in use.
            with contextlib.suppress(NotImplementedError, ValueError, OSError):
                self._files.touch(path, truncate=False)
            return True

    def put(self, sha256: str, archive: Readable) -> None:
        self._objects.put(_name(sha256), iter(lambda: archive.read(_CHUNK), b""))

    def get(self, sha256: str, target: BinaryIO, *, limit_bytes: int) -> bool:
        path = self._objects.path(_name(sha256))
        checked = _Checked(sha256, target, limit_bytes)
        with self._objects.errors("read"):
            try:
                with self._files.open(path, "rb") as source:
                    while data := source.read(_CHUNK):
                        checked.write(data)
            except FileNotFoundError:
                return False
            if not checked.is_right():
                with contextlib.suppress(Exception):
                    self._files.rm_file(path)
                raise _damaged(sha256)
        return True


def _name(sha256: str) -> str:
    return f"{sha256}.tar.gz"


class _Checked:
    """A writer with a bound, which hashes."""

    def __init__(self, sha256: str, target: BinaryIO, limit_bytes: int) -> None:
        self._sha256 = sha256
        self._target = target
        self._limit = self._left = limit_bytes
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            raise CodeError(
                f"the upload has more than {self._limit:,} bytes, which is what this worker takes (LAUNCH_UPLOAD_BYTES)"
            )
        self._hash.update(data)
        self._target.write(data)

    def is_right(self) -> bool:
        return self._hash.hexdigest() == self._sha256


def _damaged(sha256: str) -> CodeError:
    return CodeError(
        f"the upload {sha256[:12]} is refused: what is stored under its name is something else; submit again"
    )
