"""A database in SQLite and in PostgreSQL for each test here."""

from __future__ import annotations

from tests.support.archives import database, database_url, postgres

__all__ = ["database", "database_url", "postgres"]
