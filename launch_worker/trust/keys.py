"""Reads and writes keys: a signing key proves who submitted a run, a sealing key is for the secrets of a queue's runs.

A public key is a text, `sign:…` or `seal:…`. A private one is a file that its user alone can read, with one such text.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from pathlib import Path
from typing import Literal, NamedTuple

from launch_worker.errors import InputError, SettingsError

Kind = Literal["sign", "seal"]

_BYTES = 32
_PRIVATE = "private-"
#: Bytes of the longest file of a private key, with comments.
_MAX_FILE_BYTES = 4096
_WORDS: dict[str, str] = {"sign": "signing key", "seal": "sealing key"}


class PublicKey(NamedTuple):
    """A key that everybody may know."""

    kind: Kind
    raw: bytes

    @property
    def id(self) -> str:
        """The id by which signatures, sealed values and people name it."""
        return hashlib.sha256(self.raw).hexdigest()[:16]

    def __str__(self) -> str:
        return f"{self.kind}:{_as_text(self.raw)}"


class PrivateKey(NamedTuple):
    """A key that its user alone knows, and the public one that belongs to it."""

    raw: bytes
    public: PublicKey


def read_public(text: str, kind: Kind) -> PublicKey:
    """The public key of a text. Raises InputError, which repeats nothing of a text that may be a private key."""
    word, _, encoded = text.strip().partition(":")
    raw = _of_text(encoded)
    if word != kind or raw is None:
        found = _WORDS.get(word.removeprefix(_PRIVATE))
        if word.startswith(_PRIVATE) and found:
            raise InputError(f"this is a private {found}, which nobody else may see; give the public one, {kind}:…")
        wanted = f"a {_WORDS[kind]} is written as {kind}:… and 43 characters, as launch-worker keys prints it"
        raise InputError(f"{wanted}; this is {f'a {found}' if found and word != kind else 'no such key'}")
    return PublicKey(kind, raw)


def new_private(kind: Kind) -> PrivateKey:
    """A new key."""
    return _private(kind, os.urandom(_BYTES))


def write_private(path: Path, key: PrivateKey) -> None:
    """Write a private key into a new file that its user alone can read. Raises InputError where there is one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise InputError(f"{path} is there already; name another file with --file, or move that one away") from None
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from None
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(f"{_PRIVATE}{key.public.kind}:{_as_text(key.raw)}\n")


def read_private(path: Path, kind: Kind) -> PrivateKey:
    """The key in a file. Raises SettingsError for a file that others can read, or that has no such key."""
    try:
        with path.open("rb") as file:
            info = os.fstat(file.fileno())
            text = file.read(_MAX_FILE_BYTES).decode("ascii", "replace").strip()
    except OSError as error:
        raise SettingsError(f"the {_WORDS[kind]} {path} cannot be read: {error.strerror or error}") from None
    # A file of root for a group of this process is what Kubernetes makes of a Secret.
    closed = 0o037 if info.st_uid == 0 and info.st_gid in (os.getegid(), *os.getgroups()) else 0o077
    if info.st_uid not in (0, os.geteuid()) or info.st_mode & closed:
        raise SettingsError(
            f"the {_WORDS[kind]} {path} can be read by others than its user; take that away with: chmod 600 {path}"
        )
    word, _, encoded = text.partition(":")
    raw = _of_text(encoded)
    if word != f"{_PRIVATE}{kind}" or raw is None:
        raise SettingsError(f"{path} has no private {_WORDS[kind]}; make one with: launch-worker keys new")
    return _private(kind, raw)


def no_library() -> SettingsError:
    """The error where signing and sealing are asked for, and PyNaCl is not installed."""
    return SettingsError("signed runs and secrets need PyNaCl; install it with: pip install 'launch_worker[signing]'")


def _private(kind: Kind, raw: bytes) -> PrivateKey:
    try:
        if kind == "sign":
            from nacl.signing import SigningKey

            public = bytes(SigningKey(raw).verify_key)
        else:
            from nacl.public import PrivateKey as SealingKey

            public = bytes(SealingKey(raw).public_key)
    except ImportError:
        raise no_library() from None
    return PrivateKey(raw, PublicKey(kind, public))


def _as_text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _of_text(text: str) -> bytes | None:
    try:
        raw = base64.b64decode(text + "=", altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        return None
    return raw if len(raw) == _BYTES else None
