"""Signs the spec of a run, bound to the run's id, its user and an expiry, and checks such a signature.

What is signed is the text of the spec as the record keeps it, from which the worker reads what it executes: command,
environment, queue, project, priority and all else that the submitter said. What the system changes afterwards
(attempts, retries, the memory of a range, the worker to avoid) is no part of it.
"""

from __future__ import annotations

import base64
import binascii
import re
import time
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from launch_worker.errors import InputError
from launch_worker.trust.keys import PrivateKey, PublicKey, no_library, read_private

#: Seconds from a signature within which its run must be submitted: time for an outage, and for clocks that differ.
SUBMIT_WITHIN_S = 3600

#: First line of each text that is signed, so that a signature of another kind of text is none of a run.
_HEAD = "launch-worker run 1"
_SIGNATURE = re.compile(r"([0-9a-f]{16})\.([0-9]{1,18})\.([A-Za-z0-9_-]{86})")


class Signature(NamedTuple):
    """A run's signature: by which key, and until when the run may be submitted, in microseconds since 1970."""

    key_id: str
    expires_us: int
    raw: bytes


class Signer:
    """Signs runs with one key."""

    def __init__(self, key: PrivateKey) -> None:
        try:
            from nacl.signing import SigningKey
        except ImportError:
            raise no_library() from None
        self.public = key.public
        self._sign = SigningKey(key.raw).sign

    def signature(self, run_id: str, spec_text: str, *, user: str = "") -> str:
        """The signature of a run that is submitted now; `user`: the person whom a server has proven."""
        expires_us = int((time.time() + SUBMIT_WITHIN_S) * 1e6)
        raw = self._sign(_signed_text(run_id, spec_text, user=user, expires_us=expires_us)).signature
        encoded = base64.urlsafe_b64encode(raw).decode().rstrip("=")
        return f"{self.public.id}.{expires_us}.{encoded}"


@lru_cache(maxsize=8)
def signer_of(path: Path) -> Signer:
    """What signs with the key in a file, which is read once. Raises SettingsError."""
    return Signer(read_private(path, "sign"))


def read_signature(text: str) -> Signature:
    """The signature of a record. Raises InputError."""
    match = _SIGNATURE.fullmatch(text)
    try:
        if match is not None:
            return Signature(match[1], int(match[2]), base64.urlsafe_b64decode(match[3] + "=="))
    except (ValueError, binascii.Error):
        pass
    raise InputError("the run's signature is damaged; submit it anew")


def is_signed_by(public: PublicKey, signature: Signature, run_id: str, spec_text: str, *, user: str) -> bool:
    """Whether the holder of a key has signed just this. Raises SettingsError where PyNaCl is not installed."""
    try:
        from nacl.exceptions import BadSignatureError
        from nacl.signing import VerifyKey
    except ImportError:
        raise no_library() from None
    text = _signed_text(run_id, spec_text, user=user, expires_us=signature.expires_us)
    try:
        VerifyKey(public.raw).verify(text, signature.raw)
    except (BadSignatureError, ValueError):
        return False
    return True


def check_library() -> None:
    """Raise SettingsError where PyNaCl is not installed."""
    try:
        import nacl.signing  # noqa: F401
    except ImportError:
        raise no_library() from None


def _signed_text(run_id: str, spec_text: str, *, user: str, expires_us: int) -> bytes:
    # The spec comes last: it is the only part that may have a line break.
    if "\n" in run_id or "\n" in user:
        raise InputError("neither the id of a run nor the name of its user may have a line break")
    return f"{_HEAD}\n{run_id}\n{user}\n{expires_us}\n{spec_text}".encode("utf-8", "surrogatepass")
