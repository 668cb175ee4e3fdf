"""The archive's tables are made, kept equal to the schema, and refused where a newer program made them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, event, select, text, update

from launch_worker.archive import schema
from launch_worker.archive.bulk import upsert
from launch_worker.archive.follow import Archive
from launch_worker.database.audit import Audit, audit_lines
from launch_worker.database.database import Database
from launch_worker.database.migrate import migrate
from launch_worker.database.version import check_version, has_tables
from launch_worker.errors import ArchiveError, ArchiveUnavailableError, SettingsError
from launch_worker.server.audit import Act
from launch_worker.store.store import Store
from tests.conftest import wait_until
from tests.support.archives import TABLES


def test_the_migrations_make_the_tables_of_the_schema(database: Database) -> None:
    with database.reading() as connection:
        options: dict[str, Any] = {"include_name": lambda name, kind, _: not str(name).startswith("runs_search")}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, cast("Any", TABLES)) == []


def test_two_programs_that_start_at_once_make_the_tables_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'archive.db'}"
    problems: list[Exception] = []

    def start() -> None:
        database = Database(url)
        try:
            migrate(database)
        except Exception as error:  # noqa: BLE001 (the test shows it)
            problems.append(error)
        database.close()

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    check_version(Database(url))


def test_tables_of_a_newer_program_are_refused(store: Store, database: Database) -> None:
    with database.writing() as connection:
        before = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    try:
        for look in (has_tables, migrate, check_version):
            with pytest.raises(ArchiveError, match="newer launch_worker"):
                look(database)
        with pytest.raises(ArchiveError, match="newer launch_worker"):
            Archive(store, database, stopping=threading.Event()).run()
    finally:
        with database.writing() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :before"), {"before": before})


def test_tables_of_an_older_program_are_not_read(database: Database) -> None:
    with database.writing() as connection:
        before = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
        connection.execute(text("DELETE FROM alembic_version"))
    try:
        with pytest.raises(ArchiveUnavailableError, match="launch-worker archive run"):
            check_version(database)
    finally:
        with database.writing() as connection:
            connection.execute(text("INSERT INTO alembic_version VALUES (:before)"), {"before": before})


@pytest.mark.parametrize(
    "url", ["", "sqlite://", "sqlite:///:memory:", "mysql://u:secret@h/n", "no url", "postgresql//x"]
)
def test_a_url_that_names_no_database_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError, match="LAUNCH_DATABASE_URL must be") as refusal:
        Database(url)
    assert "secret" not in str(refusal.value)


def test_a_password_is_not_shown() -> None:
    database = Database("postgresql://ada:secret@127.0.0.1:1/launch")
    with pytest.raises(ArchiveUnavailableError) as refusal, database.reading():
        pass
    assert "secret" not in f"{refusal.value} {database.shown}"


def test_a_file_that_is_no_database_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "archive.db"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(ArchiveError, match="is damaged"):
        has_tables(Database(f"sqlite:///{path}"))


def test_an_act_whose_commit_nobody_has_answered_stays_one_line(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the connection to PostgreSQL breaks, or the disk is slow, just after the line was kept."""
    audit, keep = Audit(database), Audit.write_act

    def kept_without_an_answer(self: Audit, **fields: Any) -> int:
        keep(self, **fields)
        monkeypatch.setattr(Audit, "write_act", keep)
        raise ArchiveUnavailableError("the database does not answer")

    monkeypatch.setattr(Audit, "write_act", kept_without_an_answer)
    act = Act(audit, actor="ada", address="", what="pause", kind="queue", target="gpu")
    act.begin()
    act.end()
    with database.reading() as connection:
        assert connection.execute(select(audit_lines.c.target, audit_lines.c.result)).all() == [("gpu", "done")]


def test_acts_that_wait_for_each_other_are_written_in_one_transaction(database: Database) -> None:
    audit, commits = Audit(database), 0

    def count(_: Connection) -> None:
        nonlocal commits
        commits += 1

    def act(number: int) -> None:
        audit.write_act(actor="ada", what="pause", kind="queue", target=f"q{number}")

    with ThreadPoolExecutor(30) as threads:
        with database.writing() as connection:
            # The first writer waits here, and all others for that one.
            connection.execute(update(audit_lines).values(what="held"))
            if not database.is_sqlite:
                connection.execute(text("LOCK TABLE audit"))
            acts = [threads.submit(act, number) for number in range(30)]
            wait_until(lambda: len(audit._waiting) == 29, what="the others wait")
            event.listen(database.engine, "commit", count)
        for one in acts:
            one.result()
    with database.reading() as connection:
        targets = connection.execute(select(audit_lines.c.target)).scalars().all()
    assert sorted(targets) == sorted(f"q{number}" for number in range(30))
    # The holder's, the first writer's, and one for the lines of all others.
    assert commits == 3


def test_rows_are_written_in_statements_of_bounded_size_and_of_equal_keys_the_last_counts(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch_worker.archive.bulk._CHARACTERS", 100)
    monkeypatch.setattr("launch_worker.archive.bulk._VALUES", 12)
    texts = ["x", 'quo"ted \\ % %s ? ü \N{PARTY POPPER}', "y" * 500, "", *map(str, range(20))]
    rows = [
        {"id": f"{number}", "what": text, "created_at": (1 << 62) - number, "deleted_at": None if number % 2 else 7}
        for number, text in enumerate(texts)
    ]
    with database.writing() as connection:
        upsert(connection, schema.sweeps, [*rows, rows[0] | {"what": "later"}])
        upsert(connection, schema.sweeps, [rows[1] | {"what": "again"}])
        upsert(connection, schema.sweeps, [])
        columns = [schema.sweeps.c[name] for name in rows[0]]
        found = {row["id"]: dict(row) for row in connection.execute(select(*columns)).mappings()}
    rows[0]["what"], rows[1]["what"] = "later", "again"
    assert found == {row["id"]: row for row in rows}
