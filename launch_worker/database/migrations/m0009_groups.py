"""Adds the table of arrays and bulk submissions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def upgrade() -> None:
    op.create_table(
        "run_groups",
        sa.Column("id", sa.String(255), primary_key=True, nullable=False),
        *map(_text, ("what", "actor", "detail")),
        *map(_number, ("created_at", "changed_at")),
        sa.Column("deleted_at", sa.BigInteger),
    )
