"""Has the index of creation times the groups too: a list that folds groups passes over their runs in it."""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.drop_index("runs_created", table_name="runs")
    op.create_index("runs_created", "runs", ["created_at", "id", "array", "sweep"])
