"""Brings the tables to this program's form, and refuses tables that a newer program made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from launch_worker.database.database import Database
from launch_worker.database.version import refuse_newer

#: Key of the lock under which PostgreSQL's tables are changed: two programs may start at once.
_LOCK = 0x6C61756E6368


def migrate(database: Database) -> bool:
    """Make or change the tables in one transaction. Returns whether there was something to do.

    The caller holds the archive's lease, if there are tables yet.
    """
    scripts = _scripts()
    with database.writing() as connection:
        if not database.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        before = _version(connection)
        if before is not None:
            refuse_newer(before, database)
        if before == scripts.get_current_head():
            return False
        _upgrade(connection, scripts)
    return True


def has_tables(database: Database) -> bool:
    """Whether the tables were made. Raises ArchiveError for those that a newer program made."""
    with database.reading() as connection:
        version = _version(connection)
    if version is not None:
        refuse_newer(version, database)
    return version is not None


def _version(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _upgrade(connection: Connection, scripts: ScriptDirectory) -> None:
    def steps(revision: Any, _: MigrationContext) -> Any:
        return scripts._upgrade_revs("head", revision)

    with EnvironmentContext(_config(), scripts, fn=steps) as environment:
        environment.configure(connection=connection)
        environment.run_migrations()


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _config() -> Config:
    folder = str(Path(__file__).parent / "migrations")
    config = Config()
    # A per cent sign in the path would begin an interpolation.
    for name in ("script_location", "version_locations"):
        config.set_main_option(name, folder.replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    return config
