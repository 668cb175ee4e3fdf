"""Adds the index for counts and the mark of missed changes, and has PostgreSQL sort texts as SQLite does."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

#: Columns of `runs` that are compared and sorted.
_TEXTS = ("name", "project", "queue", "author", "state", "reason", "worker", "host", "array", "sweep")


def upgrade() -> None:
    op.add_column("position", sa.Column("missed_at", sa.BigInteger))
    if op.get_bind().dialect.name != "sqlite":
        changes = [f'ALTER COLUMN "{name}" TYPE text COLLATE "C"' for name in _TEXTS]
        changes.append('ALTER COLUMN id TYPE varchar(255) COLLATE "C"')
        op.execute(f"ALTER TABLE runs {', '.join(changes)}")
    kept = sa.column("deleted_at").is_(None)
    columns = ["queue", "state", "project", "author", "created_at"]
    op.create_index("runs_counted", "runs", columns, sqlite_where=kept, postgresql_where=kept)
