"""Makes the secrets of tokens and sessions, of which only a hash is kept."""

from __future__ import annotations

import hashlib
import re
import secrets

#: Beginning of an API token, by which tools that look for secrets know one.
TOKEN_PREFIX = "lw_"


def new_token() -> str:
    """A token's text: 256 bits of chance."""
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def new_session() -> str:
    """The secret of a session, for a cookie."""
    return secrets.token_urlsafe(32)


def new_id() -> str:
    """A short public name for a token or a session; it is no secret."""
    return secrets.token_hex(6)


def is_id(text: str) -> bool:
    """Whether the text can be such a name."""
    return re.fullmatch(r"[0-9a-f]{12}", text) is not None


def hash_of(secret: str) -> str:
    """The text that is kept of a secret. It needs no salt and no time: nobody guesses 256 bits."""
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
