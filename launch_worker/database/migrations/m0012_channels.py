"""Makes the tables of channels, and of the rules that tell them something."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def _key(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.String(255), primary_key=True, nullable=False)


def _time(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def upgrade() -> None:
    op.create_table(
        "channels",
        _key("name"),
        *map(_text, ("kind", "address", "secret")),
        sa.Column("has_output", sa.Boolean, nullable=False, server_default=sa.true()),
        *map(_text, ("quiet", "projects")),
        _time("created_at"),
        _text("created_by"),
    )
    op.create_table(
        "rules",
        _key("name"),
        _text("condition"),
        sa.Column("seconds", sa.Float, nullable=False, server_default="0"),
        *map(_text, ("queue", "project", "channel")),
        _time("created_at"),
        _text("created_by"),
    )
    op.create_table(
        "alarms", *map(_key, ("rule", "subject")), *map(_time, ("since", "told_at")), sqlite_with_rowid=False
    )
