"""An archive of a test: its database in SQLite or PostgreSQL, and the archive's process as an object."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select

from launch_worker.archive import schema
from launch_worker.archive.follow import Archive
from launch_worker.database import audit
from launch_worker.database.database import Database
from launch_worker.database.migrate import migrate
from launch_worker.notifications import schema as notifications_schema
from launch_worker.people import schema as people_schema
from launch_worker.store.store import Store
from tests.support.postgres import Postgres, programs

#: All tables of a database.
TABLES = (schema.metadata, audit.metadata, people_schema.metadata, notifications_schema.metadata)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server, one for each process of the test run."""
    found = programs()
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("there is no PostgreSQL server; on Debian: apt install postgresql")
        pytest.skip("there is no PostgreSQL server; on Debian: apt install postgresql")
    server = Postgres(found)
    yield server
    server.close()


@cache
def empty_sqlite() -> bytes:
    """A SQLite file with the tables, and nothing in them. Making them takes 70 ms, and is tested elsewhere."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "empty.db"
        database = Database(f"sqlite:///{path}")
        migrate(database)
        database.close()
        return path.read_bytes()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database with empty tables."""
    if request.param == "sqlite":
        path = tmp_path / "archive.db"
        path.write_bytes(empty_sqlite())
        return f"sqlite:///{path}"
    url: str = request.getfixturevalue("postgres").url()
    database = Database(url)
    migrate(database)
    with database.writing() as connection:
        for metadata in TABLES:
            for table in metadata.sorted_tables:
                connection.execute(table.delete())
        connection.execute(insert(schema.position).values(id=1))
        connection.execute(insert(schema.leader).values(id=1))
    database.close()
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(database_url)
    yield made
    made.close()


class Follower:
    """An archive's process that does its steps when the test says so."""

    def __init__(
        self, store: Store, database: Database, *, log_url: str = "", output_url: str = "", retention_s: float = 0.0
    ) -> None:
        self.database = database
        self.archive = Archive(
            store,
            database,
            stopping=threading.Event(),
            settle_s=0.0,
            log_url=log_url,
            output_url=output_url,
            retention_s=retention_s,
        )
        self.archive.lead()

    def catch_up(self) -> None:
        """Follow the feed to its end, finish the walk, and seal what has ended."""
        while self.archive.step(wait_s=0.0):
            pass

    def keep_logs(self) -> None:
        """Do all that there is to do in the store of logs."""
        while self.archive.log_keeper.turn():
            pass

    def stop(self) -> None:
        self.archive.release()


@pytest.fixture
def follower(store: Store, database: Database) -> Iterator[Callable[..., Follower]]:
    """Makes an archive's process, after the one before has stopped."""
    made: list[Follower] = []

    def make(*, log_url: str = "", output_url: str = "", retention_s: float = 0.0) -> Follower:
        for earlier in made:
            earlier.stop()
        made.append(Follower(store, database, log_url=log_url, output_url=output_url, retention_s=retention_s))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def run_of(database: Database, run_id: str) -> dict[str, Any]:
    """The row of a run; fails where it is not there exactly once."""
    with database.reading() as connection:
        query = select(schema.runs).where(schema.runs.c.id == run_id)
        return dict(connection.execute(query).mappings().one())


def rows_of(database: Database, table: Any, run_id: str) -> list[dict[str, Any]]:
    """The rows of a run in another table, in the order of their keys."""
    with database.reading() as connection:
        query = select(table).where(table.c.run_id == run_id).order_by(*table.primary_key.columns)
        return [dict(row) for row in connection.execute(query).mappings()]


def everything(database: Database) -> dict[str, list[dict[str, Any]]]:
    """All rows of all tables that tell of runs, without what differs from one archiving to the next."""
    found = {}
    with database.reading() as connection:
        for table in (schema.runs, schema.run_tags, schema.attempts, schema.transitions, schema.usage):
            key = [column for column in table.columns if column.name in ("id", "run_id", "tag", "attempt", "seq")]
            rows = connection.execute(select(table).order_by(*key)).mappings()
            found[table.name] = [{k: v for k, v in row.items() if k != "number"} for row in rows]
    return found
