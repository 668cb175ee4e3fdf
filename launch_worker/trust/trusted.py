"""Defines the signing keys that workers trust: those an admin keeps in Redis, or those of a worker's own file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from launch_worker.errors import InputError, SettingsError
from launch_worker.model.checks import NAME, NAME_RULE
from launch_worker.model.units import isoformat, micros_of
from launch_worker.trust.keys import PublicKey, read_public
from launch_worker.untrusted.ownership import read_ours
from launch_worker.untrusted.text import read_map

#: Word in place of a key's name: each trusted key.
ANY = "*"


@dataclass(frozen=True)
class TrustedKey:
    """A public signing key, whose holder's runs are executed."""

    public: PublicKey
    #: Name that an admin gave it.
    name: str
    #: Whether it is a server's, which says who submitted a run.
    is_server: bool = False
    #: Times at which it was trusted and revoked, microseconds since 1970; None for a key that is not revoked.
    trusted_at: int = 0
    revoked_at: int | None = None

    @property
    def id(self) -> str:
        return self.public.id

    def is_named(self, word: str) -> bool:
        """Whether a setting of a queue means it: by its name, its id, or as any."""
        return word in (ANY, self.name, self.id)

    def as_json(self) -> dict[str, Any]:
        """The key for people and programs."""
        return {
            "id": self.id,
            "name": self.name,
            "key": str(self.public),
            "server": self.is_server,
            "trusted_at": isoformat(self.trusted_at or None),
            "revoked_at": isoformat(self.revoked_at),
        }

    @classmethod
    def from_json(cls, shown: Any) -> TrustedKey:
        """Read what `as_json` wrote. Raises InputError."""
        if not isinstance(shown, dict):
            raise InputError("a trusted key is damaged: it is no map")
        return cls(
            read_public(str(shown.get("key")), "sign"),
            str(shown.get("name")),
            shown.get("server") is True,
            micros_of(shown.get("trusted_at")) or 0,
            micros_of(shown.get("revoked_at")),
        )

    def to_text(self) -> str:
        """The text that the store keeps."""
        return json.dumps(self.as_json(), separators=(",", ":"))

    @classmethod
    def of_text(cls, text: str) -> TrustedKey:
        """Read the store's text. Raises InputError."""
        return cls.from_json(read_map(text))


def why_not_signer(key: TrustedKey | None, key_id: str, *, signers: Sequence[str], queue: str) -> str:
    """Why runs of a queue that were signed with a key are not executed, the key's name first; '' where they are.

    `key` is what is known of it; None for nothing. `signers` are those that the queue names, none for each trusted key.
    """
    if key is None:
        return f"{key_id}, which is not trusted; an admin can trust it: launch-worker keys trust"
    if key.revoked_at is not None:
        return f"{key.name} ({key.id}), which was revoked"
    if signers and not any(map(key.is_named, signers)):
        return f"{key.name} ({key.id}), which may not sign runs of queue {queue}"
    return ""


def check_key_name(name: str) -> str:
    """The name, for one that a key may have. Raises InputError."""
    if not NAME.fullmatch(name) or name == ANY:
        raise InputError(f"name {name[:60]!r} is not allowed for a key: {NAME_RULE}")
    return name


@lru_cache(maxsize=4)
def read_trusted(path: Path) -> dict[str, TrustedKey]:
    """The keys of a worker's own file, by id: a line for each, `sign:… NAME`, with `server` behind it for a server's.

    The file is read once. Raises SettingsError.
    """
    try:
        content, reason = read_ours(path)
        text = content.decode()
    except OSError as error:
        raise SettingsError(f"LAUNCH_TRUSTED_KEYS: {path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"LAUNCH_TRUSTED_KEYS: {path} is no text") from None
    if reason:
        raise SettingsError(f"LAUNCH_TRUSTED_KEYS: {reason}")
    found = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            if not 2 <= len(words) <= 3 or words[2:] not in ([], ["server"]):
                raise InputError("write sign:… NAME, with the word server behind it for a server's key")
            key = TrustedKey(read_public(words[0], "sign"), check_key_name(words[1]), words[2:] == ["server"])
        except InputError as error:
            raise SettingsError(f"LAUNCH_TRUSTED_KEYS: line {number} of {path}: {error}") from None
        found[key.id] = key
    return found
