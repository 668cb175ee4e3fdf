"""Sorts the index of runs that Redis has by time, as a walk goes through them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.drop_index("runs_in_redis", "runs")
    kept = sa.column("forgotten_at").is_(None)
    op.create_index("runs_in_redis", "runs", ["created_at", "id"], sqlite_where=kept, postgresql_where=kept)
