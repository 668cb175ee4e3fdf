"""Adds the tables of packs, and the mark of runs whose small outputs are in one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def upgrade() -> None:
    op.add_column("runs", sa.Column("packed", sa.BigInteger))
    where = sa.text("sealed IS NOT NULL AND packed IS NULL AND forgotten_at IS NULL")
    op.create_index("runs_unpacked", "runs", ["ended_at"], sqlite_where=where, postgresql_where=where)
    op.create_table(
        "packs",
        sa.Column("name", sa.String(255), primary_key=True, nullable=False),
        *map(_number, ("begun_at", "stored", "changed")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "packed_logs",
        sa.Column("run_id", sa.String(255), primary_key=True, nullable=False),
        sa.Column("attempt", sa.BigInteger, primary_key=True, autoincrement=False),
        _text("pack"),
        _number("stored"),
        _text("manifest"),
        sqlite_with_rowid=False,
    )
    op.create_index("packed_logs_pack", "packed_logs", ["pack"])
