"""Keeps the audit: each act of a person, and what became of workers, is one line."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    bindparam,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from launch_worker.database.database import Database
from launch_worker.errors import ArchiveError
from launch_worker.untrusted.text import read_map

metadata = MetaData()


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default="")


#: Lines of the audit, the oldest first.
audit_lines = Table(
    "audit",
    metadata,
    # SQLite counts by itself in a column of type INTEGER only.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    #: Name of the act, the same however often it is read: the feed's entry, or run and place in its history. An act
    #: through the server has a random one.
    Column("change_id", String(255), nullable=False, unique=True),
    #: Microseconds since 1970.
    Column("at", BigInteger, nullable=False, server_default="0"),
    #: Person: proven for an act through the server, else as the client says; '' for a worker or beat.
    _text("actor"),
    _text("what"),
    #: Kind of the target: run, sweep, schedule, queue, pool, worker, user, group, project, token.
    _text("kind"),
    _text("target"),
    #: JSON of more.
    _text("detail"),
    #: Address from which the person asked the server; '' for other ways.
    _text("address"),
    #: End of an act through the server: `done`, or why it was refused; '' for an act that may not have been done, and
    #: for what the feed told, which was done.
    _text("result"),
    Index("audit_at", "at", "id"),
    Index("audit_target", "kind", "target", "id"),
)


# Made once: making them takes as long as the database does.
def _insert(insert: Any) -> Any:
    statement = insert(audit_lines)
    again = {"result": statement.excluded.result}
    return statement.on_conflict_do_update(index_elements=["change_id"], set_=again).returning(audit_lines.c.id)


_INSERT = {"sqlite": _insert(sqlite.insert), "postgresql": _insert(postgresql.insert)}
_UPDATE = update(audit_lines).where(audit_lines.c.id == bindparam("line")).values(result=bindparam("end"))

DONE = "done"
#: User of Redis as which the feed tells of the server's acts, of which the audit has lines already.
SERVER = "server"


def gone_workers(
    connection: Connection, words: Collection[str], *, since: int, limit: int
) -> list[tuple[Any, dict[str, Any]]]:
    """The newest lines of workers to which one of these words (lost, left) happened since then, the newest first.

    Each has with it what the worker said of itself as it appeared; that is empty where no line is left of it.
    """
    c = audit_lines.c
    gone = select(c.target, c.what, c.at).where(c.kind == "worker", c.what.in_(words), c.at >= since)
    rows = connection.execute(gone.order_by(c.at.desc(), c.id.desc()).limit(limit)).all()
    owners = {row.target for row in rows}
    came = select(c.target, c.detail).where(c.kind == "worker", c.what == "appeared", c.target.in_(owners))
    # The last line of an owner holds.
    known = {row.target: read_map(row.detail) for row in connection.execute(came.order_by(c.at, c.id))} if rows else {}
    return [(row, known.get(row.target, {})) for row in rows]


def new_act_id() -> str:
    """The `change_id` of an act through the server."""
    return f"act:{secrets.token_hex(12)}"


def write_act(
    connection: Connection,
    *,
    actor: str,
    what: str,
    kind: str,
    target: str,
    address: str = "",
    detail: Mapping[str, Any] | None = None,
    result: str = "",
    act_id: str = "",
) -> int:
    """Add the line of an act, before it is done or, with a result, after it. Returns the line's id.

    The line of an act whose id is there already gets the result: a commit may have been made and not answered.
    """
    values = {
        "change_id": act_id or new_act_id(),
        "at": time.time_ns() // 1000,
        "actor": _plain(actor),
        "what": what,
        "kind": kind,
        "target": _plain(target),
        "address": address,
        "detail": _plain(json.dumps(detail, ensure_ascii=False)) if detail else "",
        "result": _plain(result),
    }
    return int(connection.execute(_INSERT[connection.dialect.name], values).scalar_one())


class Audit:
    """The audit, into which many threads write: those that wait for each other share one transaction.

    A line that is written outlives this process. The disk is not waited for: after a loss of power the last lines may
    be missing.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._turn = threading.Lock()
        self._waiting: deque[_Piece] = deque()

    def write_act(self, **fields: Any) -> int:
        """`write_act` in a transaction that is committed. Raises ArchiveError."""
        return self._write(lambda connection: write_act(connection, **fields))

    def write_result(self, line: int, result: str) -> None:
        """Say how the act of this line ended, DONE or the sentence of its refusal. Raises ArchiveError."""
        values = {"line": line, "end": _plain(result)}
        self._write(lambda connection: connection.execute(_UPDATE, values).rowcount)

    def _write(self, write: Callable[[Connection], int]) -> int:
        piece = _Piece(write)
        self._waiting.append(piece)
        with self._turn:
            # The thread that had its turn before has written this piece too, unless it came late for that.
            if not piece.is_over:
                self._write_waiting()
        if piece.error is not None:
            raise piece.error
        return piece.answer

    def _write_waiting(self) -> None:
        pieces = [self._waiting.popleft() for _ in range(len(self._waiting))]
        try:
            with self._database.writing(is_synced=False) as connection:
                for piece in pieces:
                    piece.answer = piece.write(connection)
        except ArchiveError as error:
            for piece in pieces:
                piece.error = error
        finally:
            for piece in pieces:
                piece.is_over = True


@dataclass
class _Piece:
    """What one thread writes."""

    write: Callable[[Connection], int]
    answer: int = 0
    error: ArchiveError | None = None
    is_over: bool = False


def _plain(text: str) -> str:
    """The text as both databases take it: PostgreSQL has no NUL, and neither has half a character."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
