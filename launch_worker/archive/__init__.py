"""Keeps what Redis forgets in an SQL database: runs, attempts, transitions, usage, audit."""
