"""A database in SQLite and in PostgreSQL for each test here, and a receiver."""

from __future__ import annotations

from tests.support.archives import database, database_url, postgres
from tests.support.receivers import receiver

__all__ = ["database", "database_url", "postgres", "receiver"]
