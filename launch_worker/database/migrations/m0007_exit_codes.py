"""Adds the indexes for exit codes, and for runs of which the search text does not have all."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_index("runs_exit_code", "runs", ["exit_code", sa.text("created_at DESC"), sa.text("id DESC")])
    is_cut = sa.text("length(search) > 8000")
    op.create_index("runs_cut", "runs", ["number"], sqlite_where=is_cut, postgresql_where=is_cut)
