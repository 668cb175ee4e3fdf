"""Makes the people's tables, and adds to the audit where a person asked from and how the act ended."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def _key(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.String(255), primary_key=True, nullable=False)


def _name(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.String(255), nullable=False)


def _time(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def _maybe(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger)


def upgrade() -> None:
    op.create_table(
        "users",
        _key("name"),
        *map(_text, ("display", "password", "subject", "source")),
        _time("created_at"),
        _text("created_by"),
        *map(_maybe, ("login_at", "disabled_at")),
    )
    op.create_table("groups", _key("name"), _text("display"), _text("source"), _time("created_at"))
    op.create_table("members", *map(_key, ("group_name", "user_name", "source")), sqlite_with_rowid=False)
    op.create_index("members_user", "members", ["user_name"])
    op.create_table(
        "projects",
        _key("name"),
        sa.Column("is_private", sa.Boolean, nullable=False, server_default=sa.false()),
        _text("source"),
        _time("created_at"),
    )
    op.create_table("roles", *map(_key, ("kind", "name", "project", "source")), _text("role"), sqlite_with_rowid=False)
    op.create_table(
        "tokens",
        _key("id"),
        *map(_name, ("user_name", "name", "hash")),
        _text("role"),
        _time("created_at"),
        _text("created_by"),
        *map(_maybe, ("expires_at", "used_at")),
        _text("used_from"),
    )
    op.create_index("tokens_hash", "tokens", ["hash"], unique=True)
    op.create_index("tokens_name", "tokens", ["user_name", "name"], unique=True)
    op.create_table(
        "sessions",
        _key("id"),
        *map(_name, ("user_name", "hash")),
        _text("how"),
        *map(_time, ("created_at", "expires_at")),
        _maybe("used_at"),
        *map(_text, ("address", "agent")),
    )
    op.create_index("sessions_hash", "sessions", ["hash"], unique=True)
    op.create_index("sessions_user", "sessions", ["user_name"])
    op.add_column("audit", _text("address"))
    op.add_column("audit", _text("result"))
