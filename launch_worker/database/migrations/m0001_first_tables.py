"""Makes the first tables, with the text index."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ROW = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def _unknown(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger)


def _real(name: str) -> sa.Column[float]:
    return sa.Column(name, sa.Double)


def _key(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.String(255), primary_key=True, nullable=False)


def _numbered(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, primary_key=True, autoincrement=False)


def upgrade() -> None:
    op.create_table(
        "runs",
        sa.Column("number", _ROW, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(255), nullable=False),
        *map(_text, ("name", "project", "queue", "author")),
        _number("priority"),
        *map(_text, ("command", "image", "config", "spec", "state", "reason")),
        _number("attempt"),
        *map(_text, ("worker", "host")),
        _unknown("exit_code"),
        *map(_text, ("signal", "phase", "message")),
        _number("created_at"),
        *map(_unknown, ("started_at", "ended_at")),
        *map(_text, ("array", "sweep")),
        _number("seq"),
        *map(_text, ("search", "record")),
        *map(_unknown, ("sealed", "forgotten_at", "deleted_at")),
        _text("deleted_by"),
    )
    op.create_index("runs_id", "runs", ["id"], unique=True)
    op.create_index("runs_created", "runs", ["created_at", "id"])
    for name in ("state", "queue", "project", "author", "name"):
        op.create_index(f"runs_{name}", "runs", [name, "created_at", "id"])
    for name in ("array", "sweep"):
        _create_partial_index(f"runs_{name}", [name, "created_at", "id"], sa.column(name) != sa.literal_column("''"))
    op.create_index("runs_ended", "runs", ["ended_at"])
    _create_partial_index("runs_in_redis", ["number"], sa.column("forgotten_at").is_(None))
    _create_partial_index("runs_unsealed", ["ended_at"], sa.text("sealed IS NULL AND ended_at IS NOT NULL"))
    op.create_table("run_tags", _key("run_id"), _key("tag"), sqlite_with_rowid=False)
    op.create_index("run_tags_tag", "run_tags", ["tag", "run_id"])
    op.create_table(
        "attempts",
        _key("run_id"),
        _numbered("attempt"),
        *map(_text, ("worker", "host", "gpus")),
        *map(_unknown, ("started_at", "ended_at")),
        _text("state"),
        _unknown("exit_code"),
        *map(_text, ("signal", "phase", "reason", "message")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "transitions",
        _key("run_id"),
        _numbered("seq"),
        _text("state"),
        *map(_number, ("at", "attempt")),
        *map(_text, ("worker", "reason", "actor")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "usage",
        _key("run_id"),
        _numbered("attempt"),
        *map(_real, ("cpu_s", "gpu_s", "wall_s")),
        *map(_unknown, ("peak_memory", "mean_memory")),
        _real("memory_gb_h"),
        *map(_unknown, ("peak_gpu_memory", "disk_bytes")),
        _real("asked_cpus"),
        *map(_unknown, ("asked_memory", "asked_gpus")),
        _text("samples"),
    )
    op.create_table(
        "audit",
        sa.Column("id", _ROW, primary_key=True, autoincrement=True),
        sa.Column("change_id", sa.String(255), nullable=False, unique=True),
        _number("at"),
        *map(_text, ("actor", "what", "kind", "target", "detail")),
    )
    op.create_index("audit_at", "audit", ["at", "id"])
    op.create_index("audit_target", "audit", ["kind", "target", "id"])
    for table in ("sweeps", "schedules"):
        op.create_table(
            table,
            _key("id"),
            *map(_text, ("what", "actor", "detail")),
            *map(_number, ("created_at", "changed_at")),
            _unknown("deleted_at"),
        )
    op.create_table(
        "position",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        _text("feed_id"),
        *map(_number, ("applied_at", "asked_at", "walk_began_at", "walk_ended_at", "walk_mended")),
    )
    op.create_table(
        "leader",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        _text("holder"),
        _number("until"),
    )
    op.execute("INSERT INTO position (id) VALUES (1)")
    op.execute("INSERT INTO leader (id) VALUES (1)")
    if op.get_bind().dialect.name == "sqlite":
        _index_text_in_sqlite()
    else:
        op.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
        op.create_index(
            "runs_search", "runs", ["search"], postgresql_using="gin", postgresql_ops={"search": "gin_trgm_ops"}
        )


def _create_partial_index(name: str, columns: list[str], where: sa.ColumnElement[bool] | sa.TextClause) -> None:
    op.create_index(name, "runs", columns, sqlite_where=where, postgresql_where=where)


def _index_text_in_sqlite() -> None:
    """Make the index `runs_search`, which triggers keep equal to the column; it stores no text of its own."""
    op.execute(
        "CREATE VIRTUAL TABLE runs_search "
        "USING fts5(search, content='runs', content_rowid='number', tokenize='trigram')"
    )
    add = "INSERT INTO runs_search (rowid, search) VALUES (new.number, new.search);"
    remove = "INSERT INTO runs_search (runs_search, rowid, search) VALUES ('delete', old.number, old.search);"
    op.execute(f"CREATE TRIGGER runs_search_insert AFTER INSERT ON runs BEGIN {add} END")
    op.execute(f"CREATE TRIGGER runs_search_delete AFTER DELETE ON runs BEGIN {remove} END")
    op.execute(
        "CREATE TRIGGER runs_search_update AFTER UPDATE OF search ON runs WHEN old.search <> new.search "
        f"BEGIN {remove} {add} END"
    )
