"""People in SQLite and in PostgreSQL for each test here, with passwords that are hashed fast."""

from __future__ import annotations

import pytest
from argon2 import PasswordHasher

from launch_worker.database.database import Database
from launch_worker.people import passwords
from launch_worker.people.directory import Directory
from launch_worker.people.registry import Registry
from tests.support.archives import database, database_url, postgres

__all__ = ["database", "database_url", "postgres"]

#: A password that may be one.
GOOD = "correct horse"


@pytest.fixture(autouse=True)
def _fast_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "_hasher", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    passwords._nobodys.cache_clear()


class Clock:
    """Seconds since 1970, as the test says."""

    def __init__(self) -> None:
        import time

        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(database: Database) -> Registry:
    return Registry(database, actor="root")


@pytest.fixture
def directory(database: Database, clock: Clock) -> Directory:
    return Directory(database, clock=clock)
