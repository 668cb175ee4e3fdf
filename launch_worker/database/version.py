"""Says whether the tables have this program's form, for those who only read: without Alembic."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from sqlalchemy import Column, MetaData, String, Table, inspect, select

from launch_worker.database.database import Database
from launch_worker.errors import ArchiveError, ArchiveUnavailableError

_version = Table("alembic_version", MetaData(), Column("version_num", String(32)))


def check_version(database: Database) -> None:
    """Raise ArchiveError unless the tables have this program's form."""
    with database.reading() as connection:
        found = None
        if inspect(connection).has_table(_version.name):
            found = connection.execute(select(_version.c.version_num)).scalar()
    if found is None:
        raise ArchiveUnavailableError(f"there is no archive at {database.shown} yet; start: launch-worker archive run")
    refuse_newer(found, database)
    if found != max(_known()):
        raise ArchiveUnavailableError(
            f"the archive {database.shown} is of an older release; start this one's: launch-worker archive run"
        )


def refuse_newer(version: str, database: Database) -> None:
    """Raise ArchiveError for tables that a newer program made."""
    if version not in _known():
        raise ArchiveError(
            f"the archive {database.shown} was made by a newer launch_worker (tables {version}); install that one here"
        )


@cache
def _known() -> frozenset[str]:
    """The versions of the tables that this program has migrations for: m0001_first_tables.py is 0001."""
    return frozenset(path.stem[1:].partition("_")[0] for path in Path(__file__).parent.glob("migrations/m*.py"))
