"""Backup and restore of the archive, by the commands of docs/operations.md."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from launch_worker.database.database import Database
from launch_worker.store.store import Store
from tests.support.archives import Follower, everything
from tests.support.arrows import FINISHED, claim, create
from tests.support.postgres import Postgres, programs

OPERATIONS = Path(__file__).parents[3] / "docs" / "operations.md"


def ended(store: Store) -> str:
    run_id = create(store)
    store.finish(claim(store, run_id), FINISHED)
    return run_id


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_backup_of_sqlite_is_restored_and_gets_what_came_after_it(
    store: Store, database: Database, follower: Callable[[], Follower], tmp_path: Path
) -> None:
    archive = follower()
    first = ended(store)
    archive.catch_up()
    folder = tmp_path / "backup"
    folder.mkdir()
    assert database.file is not None
    [line] = re.findall(r"`(python3 -c 'import sqlite3.*?')`", OPERATIONS.read_text())
    words = shlex.split(line.replace('"archive.db"', f'"{database.file}"').replace("python3", sys.executable, 1))
    subprocess.run(words, cwd=folder, check=True)
    before = everything(database)
    later = ended(store)
    archive.catch_up()
    archive.stop()
    database.close()
    for path in tmp_path.glob("archive.db*"):
        path.unlink()
    shutil.copy(folder / "copy.db", database.file)
    assert everything(database) == before
    follower().catch_up()
    assert {row["id"] for row in everything(database)["runs"]} == {first, later}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_dump_of_postgresql_is_restored(
    store: Store, postgres: Postgres, follower: Callable[[], Follower], database: Database, tmp_path: Path
) -> None:
    archive = follower()
    run_id = ended(store)
    archive.catch_up()
    folder = programs()
    assert folder is not None
    dump = tmp_path / "archive.dump"
    subprocess.run([folder / "pg_dump", "-Fc", "-f", dump, postgres.url()], check=True)
    subprocess.run([folder / "createdb", f"--maintenance-db={postgres.url()}", "restored"], check=True)
    subprocess.run([folder / "pg_restore", "-d", postgres.url("restored"), dump], check=True)
    restored = Database(postgres.url("restored"))
    assert everything(restored) == everything(database)
    assert [row["id"] for row in everything(restored)["runs"]] == [run_id]
    restored.close()
    subprocess.run([folder / "dropdb", f"--maintenance-db={postgres.url()}", "restored"], check=True)
