"""Checks the sealed secrets of a spec."""

from __future__ import annotations

import re
from typing import Any

from launch_worker.errors import InputError
from launch_worker.model.checks import ENV_NAME

#: Number of secrets of a run, bytes of the value of one, and of all values together, at most.
MAX_SECRETS = 32
MAX_SECRET_BYTES = 16 << 10
MAX_ALL_BYTES = 64 << 10
#: Bytes that sealing adds to a value: the box's own, and the names and hash that bind it; then base64.
_MAX_SEALED = 17 + (MAX_SECRET_BYTES * 6 + 1024) * 4 // 3
_SEALED = re.compile(r"[0-9a-f]{16}\.[A-Za-z0-9_-]+={0,2}")


def check_sealed(secrets: Any) -> None:
    """Raises InputError, which repeats no value, for what is not sealed: a value must never stand in a record."""
    check_names(secrets)
    for name, text in secrets.items():
        if not isinstance(text, str) or len(text) > _MAX_SEALED or not _SEALED.fullmatch(text):
            raise InputError(f"secret {name} is not sealed, and its value must not stand in a record; use --secret")


def check_names(secrets: Any) -> None:
    """Raises InputError for names that are none of environment variables, or too many."""
    if not isinstance(secrets, dict):
        raise InputError("secrets must be a map of names of variables to their values")
    if len(secrets) > MAX_SECRETS:
        raise InputError(f"a run has at most {MAX_SECRETS} secrets, not {len(secrets)}")
    for name in secrets:
        if not isinstance(name, str) or not ENV_NAME.fullmatch(name):
            raise InputError(f"{str(name)[:60]!r} is not a name for an environment variable")
