"""Keeps uploaded folders in Redis, chunk by chunk."""

from __future__ import annotations

from launch_worker.model.units import as_us
from launch_worker.store import keys
from launch_worker.store.redis.client import Client
from launch_worker.store.redis.connection import clear_errors

#: Seconds for which the chunks of an unfinished upload are kept: longer than any upload takes.
_UNFINISHED_UPLOAD_S = 3600


class Uploads(Client):
    """The part of `Store` that keeps uploaded folders."""

    def put_upload_chunk(self, sha256: str, number: int, data: bytes) -> None:
        """Write one chunk of an upload. The chunk expires within an hour unless `keep_upload` follows."""
        with clear_errors(self.url):
            self._redis.set(keys.upload_chunk(sha256, number), data, ex=_UNFINISHED_UPLOAD_S)

    def keep_upload(self, sha256: str, *, chunks: int, size: int, keep_s: float) -> bool:
        """Keep an upload that is complete. False when a chunk is missing."""
        return bool(self._call("keep_upload", sha256, chunks, size, as_us(keep_s)))

    def renew_upload(self, sha256: str, *, keep_s: float) -> int:
        """Keep a complete upload for `keep_s` from now. Returns its number of chunks; 0 when it is not there."""
        return int(self._call("renew_upload", sha256, as_us(keep_s)))

    def note_sender(self, sha256: str, user: str, *, keep_s: float) -> None:
        """Note for `keep_s` that a user has sent an upload."""
        with clear_errors(self.url):
            self._redis.set(keys.upload_sender(sha256, user), 1, px=max(1, round(keep_s * 1000)))

    def has_sent(self, sha256: str, user: str) -> bool:
        """Whether a user has sent an upload, as far as that is remembered."""
        with clear_errors(self.url):
            return bool(self._redis.exists(keys.upload_sender(sha256, user)))

    def upload_chunk(self, sha256: str, number: int) -> bytes | None:
        """One chunk of an upload; None when the chunk is gone."""
        with clear_errors(self.url):
            data: bytes | None = self._redis.get(keys.upload_chunk(sha256, number))
        return data

    def forget_upload(self, sha256: str) -> None:
        """Drop an upload whose content does not fit its name; the next submit sends it again."""
        with clear_errors(self.url):
            self._redis.delete(keys.upload(sha256))
