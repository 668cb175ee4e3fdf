"""Adds the names of runs to the index for counts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.drop_index("runs_counted", "runs")
    kept = sa.column("deleted_at").is_(None)
    columns = ["queue", "state", "project", "author", "created_at", "name"]
    op.create_index("runs_counted", "runs", columns, sqlite_where=kept, postgresql_where=kept)
