"""Writes many rows by one statement.

A statement for each row is slow: SQLite's index of texts makes a piece of its own for each, and PostgreSQL
answers each.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Table

#: Values of one statement in SQLite, of which older ones take 32,766. With more of them nothing is faster.
_VALUES = 9000
#: Characters of one statement's rows in PostgreSQL, which refuses a text of a gigabyte.
_CHARACTERS = 8 << 20


def upsert(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows, and write over those with the same key, `id` or the primary one; of two equal keys the last counts.

    All rows have the same columns.
    """
    if not rows:
        return
    names = tuple(rows[0])
    key = tuple(column.name for column in table.primary_key.columns)
    key = key if set(key) <= set(names) else ("id",)
    key_of = itemgetter(*key)
    once = list({key_of(row): row for row in rows}.values())
    if connection.dialect.name != "sqlite":
        # Its driver takes ten times as long for the same number of single values.
        for list_text in _joined(map(json.dumps, once)):
            connection.exec_driver_sql(_insert(table.name, names, key, _FROM_JSON), (list_text,))
        return
    values_of = itemgetter(*names)
    size = max(1, _VALUES // len(names))
    for start in range(0, len(once), size):
        some = once[start : start + size]
        values = tuple(chain.from_iterable(map(values_of, some)))
        connection.exec_driver_sql(_insert(table.name, names, key, _rows(len(names), len(some))), values)


_FROM_JSON = "SELECT {columns} FROM json_populate_recordset(NULL::{table}, %s::json)"


def _joined(texts: Iterable[str]) -> Iterator[str]:
    """Join JSON texts into lists, each of bounded length but for a single text that is longer."""
    some: list[str] = []
    length = 0
    for text in texts:
        if some and length + len(text) > _CHARACTERS:
            yield f"[{','.join(some)}]"
            some, length = [], 0
        some.append(text)
        length += len(text)
    if some:
        yield f"[{','.join(some)}]"


def _rows(width: int, count: int) -> str:
    return "VALUES " + ", ".join([f"({', '.join('?' * width)})"] * count)


@lru_cache
def _insert(table: str, names: tuple[str, ...], key: tuple[str, ...], source: str) -> str:
    others = ", ".join(f'"{name}" = excluded."{name}"' for name in names if name not in key)
    columns = ", ".join(f'"{name}"' for name in names)
    then = f"UPDATE SET {others}" if others else "NOTHING"
    source = source.format(table=table, columns=columns)
    return f"INSERT INTO {table} ({columns}) {source} ON CONFLICT ({', '.join(key)}) DO {then}"
