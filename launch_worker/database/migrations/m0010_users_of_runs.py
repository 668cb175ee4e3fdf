"""Adds the column of the user who submitted a run, as a server has proven it, with its index, and counts by it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from launch_worker.untrusted.text import read_map

revision = "0010"
down_revision = "0009"

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("runs", sa.Column("user", _TEXT, nullable=False, server_default=""))
    fill(op.get_bind())
    op.create_index("runs_user", "runs", ["user", "created_at", "id"])
    op.drop_index("runs_counted", "runs")
    kept = sa.column("deleted_at").is_(None)
    columns = ["queue", "state", "project", "author", "user", "created_at", "name"]
    op.create_index("runs_counted", "runs", columns, sqlite_where=kept, postgresql_where=kept)


def fill(connection: sa.Connection) -> None:
    """Write the users of ended runs, which their records have."""
    runs = sa.table("runs", *map(sa.column, ("number", "user", "record")))
    c = runs.c
    found = sa.select(c.number, c.record).where(c.record.contains('"user":')).execution_options(yield_per=1000)
    values = [
        {"of": number, "name": str(user)}
        for number, record in connection.execute(found)
        if (user := read_map(record).get("user"))
    ]
    if values:
        change = sa.update(runs).where(c.number == sa.bindparam("of")).values(user=sa.bindparam("name"))
        connection.execute(change, values)
