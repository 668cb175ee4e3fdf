"""Keeps the signing keys that an admin trusts."""

from __future__ import annotations

from launch_worker.store import keys
from launch_worker.store.redis.client import Client, text
from launch_worker.store.redis.connection import clear_errors


class TrustedKeys(Client):
    """The part of `Store` for signing keys; each key is JSON (`trust/trusted.py`)."""

    def trusted_keys(self) -> list[str]:
        """All keys, revoked ones too."""
        with clear_errors(self.url):
            return [text(key) for key in self._redis.hgetall(keys.TRUSTED_KEYS).values()]

    def keep_key(self, key_id: str, key: str, *, what: str, actor: str = "") -> None:
        """Keep a key under its id. `what` was done: trusted, revoked."""
        self._call("keep_key", key_id, key, what, self.named(actor))
