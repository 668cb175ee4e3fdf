"""Makes and checks the hashes of passwords (argon2id)."""

from __future__ import annotations

import threading
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from launch_worker.errors import InputError

#: Characters of a password, at least; bytes, at most: longer texts would only cost time.
LEAST_CHARS = 10
MOST_BYTES = 1024
#: Hashes that are computed at once: each takes 64 MiB of memory and a core for some hundredths of a second.
_AT_ONCE = threading.BoundedSemaphore(2)
_hasher = PasswordHasher()


def check_password(password: str, *, name: str = "") -> None:
    """Raise InputError for a password that is too short, too long, or the user's name."""
    if len(password) < LEAST_CHARS:
        raise InputError(f"a password has at least {LEAST_CHARS} characters")
    if len(password.encode(errors="replace")) > MOST_BYTES:
        raise InputError(f"a password has at most {MOST_BYTES} bytes")
    if name and password.lower() == name.lower():
        raise InputError("the password is the user's name; choose another one")
    try:
        password.encode()
    except UnicodeEncodeError:
        raise InputError("the password holds something that is no character") from None


def hash_password(password: str) -> str:
    """The text that is kept of a password."""
    with _AT_ONCE:
        return _hasher.hash(password)


def is_password(password: str, kept: str) -> bool:
    """Whether the kept hash is this password's. Takes as long for a user without a hash, and for none at all."""
    given = password.encode(errors="replace")[: MOST_BYTES + 1]
    with _AT_ONCE:
        nobodys = _nobodys()
        try:
            _hasher.verify(kept or nobodys, given)
        except (Argon2Error, InvalidHashError):
            return False
    return bool(kept)


def is_old(kept: str) -> bool:
    """Whether the hash was made with other costs than those of today."""
    return _hasher.check_needs_rehash(kept)


def is_hash(text: str) -> bool:
    """Whether the text is an argon2 hash that can be checked."""
    try:
        _hasher.check_needs_rehash(text)
    except (Argon2Error, InvalidHashError):
        return False
    return text.startswith("$argon2id$")


@cache
def _nobodys() -> str:
    """The hash of no password: with the same costs as all others, so that its check takes as long."""
    return _hasher.hash("nobody has this password")
