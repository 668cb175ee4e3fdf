"""Says whether the tables have this program's form, without Alembic: for those who only read, and where they have."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from sqlalchemy import Column, Connection, MetaData, String, Table, inspect, select

from launch_worker.database.database import Database
from launch_worker.errors import ArchiveError, ArchiveUnavailableError

_version = Table("alembic_version", MetaData(), Column("version_num", String(32)))


def check_version(database: Database) -> None:
    """Raise ArchiveError unless the tables have this program's form."""
    found = version_of(database)
    if found is None:
        raise ArchiveUnavailableError(f"there is no archive at {database.shown} yet; start: launch-worker archive run")
    if found != newest():
        raise ArchiveUnavailableError(
            f"the archive {database.shown} is of an older release; start this one's: launch-worker archive run"
        )


def has_tables(database: Database) -> bool:
    """Whether the tables were made. Raises ArchiveError for those that a newer program made."""
    return version_of(database) is not None


def version_of(database: Database) -> str | None:
    """The version of the tables; None for none. Raises ArchiveError for those that a newer program made."""
    with database.reading() as connection:
        return version_in(connection, database)


def version_in(connection: Connection, database: Database) -> str | None:
    """The same, as this transaction sees it."""
    if not inspect(connection).has_table(_version.name):
        return None
    found = connection.execute(select(_version.c.version_num)).scalar()
    if found is not None and found not in _known():
        raise ArchiveError(
            f"the archive {database.shown} was made by a newer launch_worker (tables {found}); install that one here"
        )
    return found


def newest() -> str:
    """The version of the tables that this program makes."""
    return max(_known())


@cache
def _known() -> frozenset[str]:
    """The versions of the tables that this program has migrations for: m0001_first_tables.py is 0001."""
    return frozenset(path.stem[1:].partition("_")[0] for path in Path(__file__).parent.glob("migrations/m*.py"))
