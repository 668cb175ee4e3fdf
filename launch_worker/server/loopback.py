"""Keeps the key by which the user of a server on loopback comes in: the printed address has it."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from launch_worker.errors import SettingsError

_KEY_FILE = "server-key"


def with_key(url: str, key: str) -> str:
    """The address that lets its reader in."""
    return f"{url}/?token={key}"


def loopback_key(folder: Path) -> str:
    """The key of the printed address, the same each time. Raises SettingsError."""
    path = folder / _KEY_FILE
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(descriptor, "r+") as file:
            said = os.fstat(descriptor)
            key = file.read()
            if said.st_uid != os.geteuid() or said.st_mode & 0o077:
                raise SettingsError(f"{path} must be yours alone; delete it, and the server makes another one")
            if len(key) < 32:
                key = secrets.token_urlsafe(32)
                file.seek(0)
                file.truncate()
                file.write(key)
    except OSError as error:
        raise SettingsError(
            f"the server's key cannot be kept in {path} ({error.strerror}); set LAUNCH_WORK_DIR to a folder of yours"
        ) from None
    return key
