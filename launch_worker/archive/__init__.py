"""Keeps what Redis forgets in an SQL database, SQLite or PostgreSQL: runs, attempts, transitions, usage, audit."""
