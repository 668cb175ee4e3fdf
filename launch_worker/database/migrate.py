"""Brings the tables to this program's form, and refuses tables that a newer program made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, text

from launch_worker.database.database import Database
from launch_worker.database.version import newest, version_in, version_of

#: Key of the lock under which PostgreSQL's tables are changed: two programs may start at once.
_LOCK = 0x6C61756E6368


def migrate(database: Database) -> bool:
    """Make or change the tables in one transaction. Returns whether there was something to do.

    The caller holds the archive's lease, if there are tables yet.
    """
    if version_of(database) == newest():
        return False
    with database.writing() as connection:
        if not database.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        if version_in(connection, database) == newest():
            return False
        _upgrade(connection)
    return True


def _upgrade(connection: Connection) -> None:
    # Alembic takes 11 MiB, which a process that finds the tables as they should be does not need.
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    folder = str(Path(__file__).parent / "migrations")
    config = Config()
    # A per cent sign in the path would begin an interpolation.
    for name in ("script_location", "version_locations"):
        config.set_main_option(name, folder.replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    scripts = ScriptDirectory.from_config(config)

    def steps(revision: Any, _: Any) -> Any:
        return scripts._upgrade_revs("head", revision)

    with EnvironmentContext(config, scripts, fn=steps) as environment:
        environment.configure(connection=connection)
        environment.run_migrations()
