"""Adds the table of runs whose logs are to be deleted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "log_deletions",
        sa.Column("run_id", sa.String(255), primary_key=True, nullable=False),
        sa.Column("deleted_at", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("due_at", sa.BigInteger, nullable=False, server_default="0"),
        sqlite_with_rowid=False,
    )
    op.create_index("log_deletions_due", "log_deletions", ["due_at"])
