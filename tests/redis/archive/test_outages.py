"""Redis, the database or its disk goes away: the archive waits, says so once, and goes on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy.exc import NoResultFound

from launch_worker.archive.follow import Archive
from launch_worker.database.database import Database
from launch_worker.dev.redis_server import RedisServer
from launch_worker.errors import ArchiveError
from launch_worker.store.store import Store
from tests.conftest import wait_until
from tests.support.archives import run_of
from tests.support.arrows import FINISHED, claim, create
from tests.support.disks import Disk, fill
from tests.support.postgres import Postgres


@contextmanager
def running(store: Store, database: Database) -> Iterator[threading.Thread]:
    """An archive's process as a thread."""
    stopping = threading.Event()
    thread = threading.Thread(target=Archive(store, database, stopping=stopping, settle_s=0.0).run)
    thread.start()
    yield thread
    stopping.set()
    thread.join(30)
    assert not thread.is_alive()


def has_ended(database: Database, run_id: str) -> bool:
    try:
        return bool(run_of(database, run_id)["state"] == "Finished")
    except (ArchiveError, NoResultFound):
        return False


def ended(store: Store) -> str:
    run_id = create(store)
    store.finish(claim(store, run_id), FINISHED)
    return run_id


def said(caplog: pytest.LogCaptureFixture, word: str) -> int:
    return sum(record.getMessage().startswith(word) for record in caplog.records)


def test_redis_goes_away_and_comes_back(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "launch_worker.archive")
    server = RedisServer(aof="always")
    server.start()
    store = Store(server.url)
    try:
        with running(store, database):
            first = ended(store)
            wait_until(lambda: has_ended(database, first), what="the first run is archived")
            server.kill()
            wait_until(lambda: said(caplog, "archive.waits"), what="it says that it waits")
            server.start()
            second = ended(store)
            wait_until(lambda: has_ended(database, second), what="the second run is archived")
        assert said(caplog, "archive.waits") == 1
        assert said(caplog, "archive.goes_on") == 1
    finally:
        store.close()
        server.stop()


def test_postgresql_goes_away_and_comes_back(
    store: Store, postgres: Postgres, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    caplog.set_level(logging.INFO, "launch_worker.archive")
    database = Database(postgres.url())
    with running(store, database):
        first = ended(store)
        wait_until(lambda: has_ended(database, first), what="the first run is archived")
        postgres.stop()
        second = ended(store)
        wait_until(lambda: said(caplog, "archive.waits"), what="it says that it waits")
        postgres.start()
        wait_until(lambda: has_ended(database, second), what="the second run is archived")
    assert said(caplog, "archive.waits") == 1
    database.close()


def test_a_full_disk_is_waited_for(store: Store, disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "launch_worker.archive")
    folder: Path = disk("64m")
    database = Database(f"sqlite:///{folder / 'archive.db'}")
    with running(store, database):
        first = ended(store)
        wait_until(lambda: has_ended(database, first), what="the first run is archived")
        fill(folder)
        # The log of the database has room left, of writes that were taken over into the file.
        last = [create(store, config={"text": "x" * 3000}) for _ in range(500)][-1]
        wait_until(lambda: said(caplog, "archive.waits"), what="it says that it waits")
        store.finish(claim(store, last), FINISHED)
        (folder / "filler").unlink()
        wait_until(lambda: has_ended(database, last), what="the last run is archived")
    assert said(caplog, "archive.waits") == 1
    database.close()
