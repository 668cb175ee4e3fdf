"""Says where `launch-worker dev` keeps its data, and how other programs of the same user find it while it lives."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

LOCK = "lock"
ADDRESS = "address.json"


def dev_folder(env: Mapping[str, str]) -> Path | None:
    """The one data folder of this user, whether it is there or not; None without a home."""
    home = env.get("HOME")
    state = env.get("XDG_STATE_HOME") or (home and f"{home}/.local/state")
    return Path(state, "launch-worker", "dev") if state else None


def log_url_of(folder: Path) -> str:
    """The URL of the whole logs of a `dev` with this folder."""
    return f"file://{folder}/logs"


def output_url_of(folder: Path) -> str:
    """The URL of the outputs and checkpoints of a `dev` with this folder."""
    return f"file://{folder}/outputs"


def archive_url_of(folder: Path) -> str:
    """The URL of the archive of a `dev` with this folder."""
    return f"sqlite:///{folder}/archive.db"


def living_redis_url(env: Mapping[str, str]) -> str | None:
    """The URL of this user's `launch-worker dev`; None while none is up."""
    folder = dev_folder(env)
    try:
        # Most users have none, and every command looks.
        file = open(folder / ADDRESS, "rb") if folder is not None else None  # noqa: SIM115
    except OSError:
        return None
    if folder is None or file is None:
        return None
    with file:
        said = os.fstat(file.fileno())
        if said.st_uid != os.geteuid() or said.st_mode & 0o077:
            return None
        from launch_worker.untrusted.text import read_map

        url = read_map(file.read()).get("redis_url")
    return url if isinstance(url, str) and is_held(folder) else None


def is_held(folder: Path) -> bool:
    """Whether a `dev` lives that has this folder."""
    import fcntl

    try:
        with open(folder / LOCK, "rb") as lock:
            # Whoever holds it holds it alone.
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
