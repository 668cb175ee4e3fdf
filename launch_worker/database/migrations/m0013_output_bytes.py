"""Adds the column of the bytes that an attempt's outputs have."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.add_column("attempts", sa.Column("output_bytes", sa.BigInteger, nullable=False, server_default="0"))
