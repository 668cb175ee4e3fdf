"""Opens the SQL database, SQLite or PostgreSQL, and makes its tables: those of the archive and of the people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launch_worker.errors import ArchiveUnavailableError, SettingsError
from launch_worker.settings import Settings

if TYPE_CHECKING:
    from launch_worker.database.database import Database


def open_database(settings: Settings, *, create: bool = False) -> Database:
    """The database of the settings; only with `create` is a SQLite file made.

    Raises ArchiveUnavailableError, SettingsError. SQLAlchemy is imported here, and not before.
    """
    try:
        from launch_worker.database.database import Database
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"the archive needs {error.name}, which is not installed; install it with: "
            "pip install 'launch_worker[server]'"
        ) from None
    database = Database(settings.archive_url)
    if not create and database.file is not None and not database.file.exists():
        raise ArchiveUnavailableError(f"there is no archive at {database.shown}; start: launch-worker archive run")
    return database
