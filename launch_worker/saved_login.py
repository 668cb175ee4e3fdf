"""Keeps the login to a server in the user's configuration folder, readable for nobody else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from launch_worker.config_folder import config_folder

_FILE = "login.json"


class SavedLogin(NamedTuple):
    """The URL of a server, and the token of the person who has logged in there."""

    url: str
    token: str


def login_file(env: Mapping[str, str]) -> Path | None:
    """The file of this user, whether it is there or not; None without a home."""
    folder = config_folder(env)
    return folder and folder / _FILE


def saved_login(env: Mapping[str, str]) -> SavedLogin | None:
    """The login that was saved; None for none, or for a file that others could have written or read."""
    path = login_file(env)
    try:
        # Most users have none, and every command without a URL looks.
        file = open(path, "rb") if path is not None else None  # noqa: SIM115
    except OSError:
        return None
    if file is None:
        return None
    with file:
        said = os.fstat(file.fileno())
        if said.st_uid != os.geteuid() or said.st_mode & 0o077:
            return None
        from launch_worker.untrusted.text import read_map

        kept = read_map(file.read())
    url, token = kept.get("url"), kept.get("token")
    return SavedLogin(url, token) if isinstance(url, str) and isinstance(token, str) else None


def save_login(env: Mapping[str, str], login: SavedLogin) -> Path | None:
    """Save it in place of an earlier one; returns its file, None where the user has no home.

    Raises OSError, and SettingsError for a folder into which somebody else could put another login.
    """
    import json
    import tempfile

    from launch_worker.errors import SettingsError
    from launch_worker.untrusted.ownership import make_ours

    path = login_file(env)
    if path is None:
        return None
    if why_foreign := make_ours(path.parent):
        raise SettingsError(f"the login is not kept in {path.parent}: {why_foreign}")
    # A file of `mkstemp` is its user's alone from the beginning.
    descriptor, partial = tempfile.mkstemp(dir=path.parent)
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump(login._asdict(), file)
    os.replace(partial, path)
    return path


def forget_login(env: Mapping[str, str]) -> bool:
    """Delete it. False where there is none."""
    path = login_file(env)
    try:
        if path is not None:
            path.unlink()
            return True
    except FileNotFoundError:
        pass
    return False
