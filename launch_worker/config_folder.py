"""Names the files that a user's configuration folder may have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def config_folder(env: Mapping[str, str]) -> Path | None:
    """The folder of this user's configuration, whether it is there or not; None without a home."""
    home = env.get("HOME")
    folder = env.get("XDG_CONFIG_HOME") or (home and f"{home}/.config")
    return Path(folder, "launch-worker") if folder else None


def signing_key_file(env: Mapping[str, str]) -> Path | None:
    """The file of this user's signing key, whether it is there or not; None without a home."""
    folder = config_folder(env)
    return folder and folder / "signing.key"


def sealing_key_folder(env: Mapping[str, str]) -> Path | None:
    """The folder of this user's private sealing keys, whether it is there or not; None without a home."""
    folder = config_folder(env)
    return folder and folder / "sealing-keys"
