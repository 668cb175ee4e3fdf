"""Uploaded folders that are kept in Redis."""

from __future__ import annotations

from launch_worker.model.units import as_us
from launch_worker.store import keys
from launch_worker.store.redis.client import Client
from launch_worker.store.redis.connection import clear_errors

#: Longer than sending any upload takes.
_UNFINISHED_UPLOAD_S = 3600


class Uploads(Client):
    """The part of `Store` for uploads."""

    def put_upload_chunk(self, sha256: str, number: int, data: bytes) -> None:
        """Write one part of an upload. It expires soon unless `keep_upload` follows."""
        with clear_errors(self.url):
            self._redis.set(keys.upload_chunk(sha256, number), data, ex=_UNFINISHED_UPLOAD_S)

    def keep_upload(self, sha256: str, *, chunks: int, size: int, keep_s: float) -> bool:
        """The upload is whole: keep it. False when a part is missing."""
        return bool(self._call("keep_upload", sha256, chunks, size, as_us(keep_s)))

    def renew_upload(self, sha256: str, *, keep_s: float) -> int:
        """Keep a whole upload for so long from now on. Returns how many chunks it has; 0 when it is not there."""
        return int(self._call("renew_upload", sha256, as_us(keep_s)))

    def upload_chunk(self, sha256: str, number: int) -> bytes | None:
        """One part of an upload; None when it is gone."""
        with clear_errors(self.url):
            data: bytes | None = self._redis.get(keys.upload_chunk(sha256, number))
        return data

    def forget_upload(self, sha256: str) -> None:
        """It is not what its name says: the next submit shall send it anew."""
        with clear_errors(self.url):
            self._redis.delete(keys.upload(sha256))
