"""Writes the archive's runs out, a page at a time: as JSON lines with their histories, or as a table in CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from sqlalchemy import select

from launch_worker.archive import schema
from launch_worker.archive.past import LOST, attempts_of, transitions_of
from launch_worker.archive.rows import restored_record
from launch_worker.archive.selection import Selection
from launch_worker.database.database import Database
from launch_worker.model.units import isoformat
from launch_worker.store.records import record_of
from launch_worker.untrusted.text import clean

#: Runs of one read; each is a short transaction, so that an export of hours keeps nobody waiting.
_PAGE = 500
_TIMES = ("created_at", "started_at", "ended_at")
_COLUMNS = (
    *("id", "name", "project", "queue", "author", "user", "tags", "state", "reason", "attempt", "worker", "host"),
    *("exit_code", "signal", "phase", "message", *_TIMES, "array", "sweep", "command", "image"),
)
_USAGE = ("cpu_s", "gpu_s", "wall_s", "peak_memory", "memory_gb_h", "peak_gpu_memory")


def objects(database: Database, selection: Selection) -> Iterator[dict[str, Any]]:
    """Each run of the selection as `show --json` prints it, with attempts and usage, in the order of archiving."""
    for page, more in _pages(database, selection):
        for row in page:
            record = restored_record(row, record_of).as_json()
            if row["ended_at"] is None and row["forgotten_at"] is not None:
                record["reason"] = LOST
            yield record | {name: found.get(row["id"], []) for name, found in more.items()}


def csv_lines(database: Database, selection: Selection) -> Iterator[str]:
    """The lines of a CSV file, the header first. Control characters are replaced, and no cell is a formula."""
    yield _line([*_COLUMNS, *_USAGE])
    for page, more in _pages(database, selection):
        for row in page:
            used = more["usage"].get(row["id"], [])
            values = {
                **row,
                **{name: isoformat(row[name]) for name in _TIMES},
                "tags": " ".join(more["tags"].get(row["id"], [])),
            }
            totals = [_total(used, name) for name in _USAGE]
            yield _line([*(values[name] for name in _COLUMNS), *totals])


def _pages(database: Database, selection: Selection) -> Iterator[tuple[list[Any], dict[str, dict[str, list[Any]]]]]:
    c = schema.runs.c
    after = 0
    while True:
        with database.reading() as connection:
            query = select(schema.runs).where(c.deleted_at.is_(None), selection.condition(), c.number > after)
            page = [dict(row) for row in connection.execute(query.order_by(c.number).limit(_PAGE)).mappings()]
            if not page:
                return
            ids = [row["id"] for row in page]
            more: dict[str, dict[str, list[Any]]] = {
                "history": transitions_of(connection, ids),
                "attempts": attempts_of(connection, ids),
                "usage": {},
                "tags": {},
            }
            of = schema.usage.c
            for used in connection.execute(
                select(schema.usage).where(of.run_id.in_(ids)).order_by(of.attempt)
            ).mappings():
                values = {name: value for name, value in used.items() if name != "run_id"}
                more["usage"].setdefault(used["run_id"], []).append(values)
            tags = schema.run_tags.c
            for run_id, tag in connection.execute(select(tags.run_id, tags.tag).where(tags.run_id.in_(ids))):
                more["tags"].setdefault(run_id, []).append(tag)
        after = page[-1]["number"]
        yield page, more


def _total(used: list[dict[str, Any]], name: str) -> float | None:
    """The sum over a run's attempts; of a peak, the largest."""
    values: list[float] = [row[name] for row in used if row[name] is not None]
    if not values:
        return None
    return max(values) if name.startswith("peak") else sum(values)


def _line(cells: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow([_cell(cell) for cell in cells])
    return text.getvalue()


def _cell(value: Any) -> str:
    text = clean(value)
    # A table calculator would compute it.
    return f"'{text}" if isinstance(value, str) and text[:1] in ("=", "+", "-", "@") else text
