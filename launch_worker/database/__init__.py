"""Opens the SQL database, SQLite or PostgreSQL, and makes its tables: those of the archive and of the people."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from launch_worker.errors import ArchiveUnavailableError, SettingsError
from launch_worker.settings import Settings
from launch_worker.untrusted.ownership import why_not_ours

if TYPE_CHECKING:
    from launch_worker.database.database import Database


def open_database(settings: Settings, *, create: bool = False, writes_archive: bool = False) -> Database:
    """The database of the settings; only with `create` is a SQLite file made, for this user alone.

    `writes_archive`: for the one process that follows all changes.

    Raises ArchiveUnavailableError, SettingsError. SQLAlchemy is imported here, and not before.
    """
    try:
        from launch_worker.database.database import CACHE_BYTES, WRITER_CACHE_BYTES, Database
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"the archive needs {error.name}, which is not installed; install it with: "
            "pip install 'launch_worker[server]'"
        ) from None
    database = Database(settings.archive_url, cache_bytes=WRITER_CACHE_BYTES if writes_archive else CACHE_BYTES)
    if create and database.file is not None:
        _make_private(database.file)
        if not settings.work_dir_trusted:
            _check_owner(database.file)
    if not create and database.file is not None and not database.file.exists():
        raise ArchiveUnavailableError(f"there is no archive at {database.shown}; start: launch-worker archive run")
    return database


def _check_owner(file: Path) -> None:
    """Refuse a file into which somebody else could write a person with all rights. Raises SettingsError."""
    try:
        reason = why_not_ours(file)
    except OSError:
        # The first use of the database says what is wrong.
        return
    if reason:
        raise SettingsError(
            f"the database {file} is not used, for others could write to it: {reason} (or set "
            "LAUNCH_WORK_DIR_TRUSTED=1 where nobody else is on the machine, as in a container)"
        )


def _make_private(file: Path) -> None:
    """Make an empty file that nobody else can read: it will have others' values, and hashes of passwords."""
    with contextlib.suppress(OSError):  # the first use of the database says what is wrong
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
