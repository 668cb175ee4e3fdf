"""Seals the secrets of a run for the workers of its queue, and opens them there.

A sealed value has the run's id, its user, the variable's name and a hash of the rest of the spec in it: it opens for
that run with that command only, whoever copies it elsewhere or writes another command or user into the record.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from launch_worker.errors import CodeError, InputError, SettingsError
from launch_worker.model.secrets import MAX_ALL_BYTES, MAX_SECRET_BYTES
from launch_worker.trust.keys import PrivateKey, PublicKey, no_library, read_private
from launch_worker.untrusted.text import read_map

_ENCODE = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode


def check_values(secrets: Mapping[str, str]) -> None:
    """Raises InputError, which repeats no value, for a value that no environment can have."""
    total = 0
    for name, value in secrets.items():
        if not isinstance(value, str) or "\0" in value:
            raise InputError(f"secret {name[:60]!r} must be a text without NUL")
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise InputError(f"secret {name[:60]!r} is no valid text (UTF-8)") from None
        if not 0 < size <= MAX_SECRET_BYTES:
            size_text = f"{size:,} bytes; at most {MAX_SECRET_BYTES:,} are allowed" if size else "no value"
            raise InputError(f"secret {name[:60]!r} has {size_text}")
        total += size
    if total > MAX_ALL_BYTES:
        raise InputError(f"the secrets of a run have {total:,} bytes together; at most {MAX_ALL_BYTES:,} are allowed")


def sealed(
    secrets: Mapping[str, str], key: PublicKey, *, run_id: str, spec_text: str, user: str = ""
) -> dict[str, str]:
    """The values, each sealed for the holders of a key and for this run; `spec_text` is the spec without them.

    `user` is the person whom a server has proven, '' for none.
    """
    try:
        from nacl.public import PublicKey as Public
        from nacl.public import SealedBox
    except ImportError:
        raise no_library() from None
    box, rest = SealedBox(Public(key.raw)), _rest(read_map(spec_text))
    return {
        name: f"{key.id}.{base64.urlsafe_b64encode(box.encrypt(_content(run_id, user, name, rest, value))).decode()}"
        for name, value in secrets.items()
    }


def opened(spec_text: str, *, run_id: str, keys: Path | None, user: str = "") -> dict[str, str]:
    """The values of a record's sealed secrets. Raises CodeError where this worker has no key for them, else InputError.

    `keys`: the folder, or the file, with this worker's private keys.
    """
    spec = read_map(spec_text)
    found, rest = {}, _rest(spec)
    for name, text in spec.get("secrets", {}).items():
        key_id, _, encoded = text.partition(".")
        wanted = partial(_content, run_id, user, name, rest)
        found[name] = _opened(encoded, _private_key(key_id, keys), wanted, name=name)
    return found


def _opened(encoded: str, key: PrivateKey, wanted: Callable[[str], bytes], *, name: str) -> str:
    try:
        from nacl.exceptions import CryptoError
        from nacl.public import PrivateKey as Private
        from nacl.public import SealedBox
    except ImportError:
        raise CodeError(str(no_library()), worker_fault=True) from None
    try:
        content = SealedBox(Private(key.raw)).decrypt(base64.urlsafe_b64decode(encoded))
    except (CryptoError, ValueError):
        raise InputError(f"secret {name} cannot be opened: it was changed; submit the run anew") from None
    value = read_map(content).get("value")
    if not isinstance(value, str) or content != wanted(value):
        raise InputError(
            f"secret {name} was sealed for another run, or this run's record was changed since; submit the run anew"
        )
    return value


def _private_key(key_id: str, keys: Path | None) -> PrivateKey:
    """This worker's key with an id. Raises CodeError, which lets another worker try."""
    if keys is None:
        raise CodeError(
            "the run has secrets, and its worker has no private sealing key; name it in LAUNCH_SEALING_KEYS",
            worker_fault=True,
        )
    try:
        # A key that was added since is found: whenever one is missing, all are read anew.
        for _ in range(2):
            if key := _keys(keys).get(key_id):
                return key
            _keys.cache_clear()
    except (SettingsError, OSError) as error:
        raise CodeError(
            f"the run has secrets, and its worker's keys cannot be read: {error}", worker_fault=True
        ) from None
    raise CodeError(
        f"the run's secrets were sealed with key {key_id[:16]}, which its worker does not have; put its file into "
        f"{keys}, or submit the run anew",
        worker_fault=True,
    )


def known_keys(keys: Path) -> tuple[str, ...]:
    """The ids of a worker's private sealing keys, as they were read last; none where they cannot be read."""
    try:
        return tuple(_keys(keys))
    except (SettingsError, OSError):
        return ()


@lru_cache(maxsize=2)
def _keys(path: Path) -> dict[str, PrivateKey]:
    """The private keys of a folder, or of one file, by id. Raises SettingsError, OSError."""
    files = sorted(path.glob("*.key")) if path.is_dir() else [path]
    found = [read_private(file, "seal") for file in files]
    return {key.public.id: key for key in found}


def _rest(spec: Mapping[str, Any]) -> str:
    """A hash of what the spec says besides its secrets."""
    return hashlib.sha256(_ENCODE({name: spec[name] for name in spec if name != "secrets"}).encode()).hexdigest()


def _content(run_id: str, user: str, name: str, rest: str, value: str) -> bytes:
    return _ENCODE({"user": user, "run": run_id, "name": name, "spec": rest, "value": value}).encode()


def read_secrets(words: tuple[str, ...], env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The values that the words of `--secret` mean: NAME of this environment, NAME=@FILE, or NAME=- for standard input.

    Raises InputError, which repeats no value; one that stands on the command line is refused, for others can see it.
    """
    found: dict[str, str] = {}
    reads_input = False
    for word in words:
        name, equals, source = word.partition("=")
        if not equals:
            if name not in env:
                raise InputError(
                    f"secret {name[:60]!r} is no variable of this environment; set it, or write {name[:60]}=@FILE, or "
                    f"{name[:60]}=- for standard input"
                )
            found[name] = env[name]
        elif source == "-":
            if reads_input:
                raise InputError("only one secret can be read from standard input; put the others into files")
            reads_input = True
            found[name] = _without_line_end(sys.stdin.buffer.read(MAX_SECRET_BYTES + 3), name)
        elif source.startswith("@") and len(source) > 1:
            try:
                with open(os.path.expanduser(source[1:]), "rb") as file:
                    found[name] = _without_line_end(file.read(MAX_SECRET_BYTES + 3), name)
            except OSError as error:
                raise InputError(f"secret {name[:60]}: {source[1:]!r} cannot be read: {error.strerror}") from None
        else:
            raise InputError(
                f"the value of secret {name[:60]} stands on the command line, where others of this machine can read "
                f"it; write --secret {name[:60]} (from this environment), {name[:60]}=@FILE or {name[:60]}=-"
            )
    return found


def _without_line_end(content: bytes, name: str) -> str:
    """The text of a file, without the line break that editors and `echo` put at its end."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise InputError(f"secret {name[:60]} is no text (UTF-8); encode it, for instance as base64") from None
    return text.removesuffix("\n").removesuffix("\r")
