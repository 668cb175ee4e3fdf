"""Shows runs side by side: what they were given, and what they reported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from launch_worker import humane
from launch_worker.api.filters import NEWEST_FIRST, parse_filter, parse_order
from launch_worker.errors import InputError
from launch_worker.model.run import Record
from launch_worker.people.roles import Act
from launch_worker.server.asker import Asker, allowed
from launch_worker.server.pages.rows import Row, run_row
from launch_worker.server.pages.shown import show
from launch_worker.server.served import Served
from launch_worker.server.shared import SharedHere
from launch_worker.untrusted.text import clean, read_map

router = APIRouter(include_in_schema=False)
#: Runs that are compared, and names of values that are shown, at most.
MOST, _MOST_NAMES = 20, 500
#: Characters of a value that are shown; the whole is on hover.
_MOST_TEXT = 200
_NONE = object()


class Cell(NamedTuple):
    """A value of one run."""

    text: str
    is_number: bool
    is_there: bool


class Line(NamedTuple):
    """The values of one name."""

    name: str
    cells: list[Cell]
    differs: bool


@router.get("/runs/compare")
def compare_page(
    request: Request,
    shared: SharedHere,
    asker: Annotated[Asker, allowed(Act.SEE_RUNS)],
    id: Annotated[list[str], Query()] = [],  # noqa: B006
    every: str = "",
) -> Response:
    """Config, summary and what else tells runs apart; with `every` also what is the same."""
    ids = list(dict.fromkeys(id))
    if len(ids) > MOST:
        raise InputError(f"at most {MOST} runs are compared at once, not {len(ids)}")
    served = Served(shared, asker)
    found: dict[str, Record] = {}
    if ids:
        wanted = parse_filter({"id": {"$in": ids}})
        listing = served.listing(wanted, parse_order(NEWEST_FIRST), per_page=len(ids))
        found = {record.id: record for record in listing.records()}
    records = [found[one] for one in ids if one in found]
    now_us = served.now_us()
    rows = [run_row(served, record, now_us) for record in records]
    parts = {
        "Run": _lines([_described(row) for row in rows]),
        "Config": _lines([record.config for record in records]),
        "Summary": _lines([record.summary_values for record in records]),
    }
    hidden = 0
    if not every and len(records) > 1:
        hidden = sum(not line.differs for lines in parts.values() for line in lines)
        parts = {title: [line for line in lines if line.differs] for title, lines in parts.items()}
    query = [("id", record.id) for record in records]
    return show(
        request,
        shared,
        asker,
        "compare",
        rows=rows,
        parts={title: lines for title, lines in parts.items() if lines},
        hidden=hidden,
        is_every=bool(every),
        missing=[clean(one)[:40] for one in ids if one not in found],
        with_same=f"/runs/compare?{urlencode([*query, ('every', '1')])}",
        without_same=f"/runs/compare?{urlencode(query)}",
        without={row.id: f"/runs/compare?{urlencode([pair for pair in query if pair[1] != row.id])}" for row in rows},
        most=MOST,
    )


def _described(row: Row) -> dict[str, Any]:
    record, spec = row.record, read_map(row.record.spec)
    command = spec.get("command")
    described = {
        "queue": record.queue,
        "project": record.project,
        "tags": ", ".join(record.tags),
        "command": " ".join(map(str, command)) if isinstance(command, list) else "",
        "image": spec.get("image") or "",
        "commit": record.commit,
        "attempt": record.attempt,
        "exit code": record.exit_code,
        "time": None if row.took_s is None else humane.duration(row.took_s),
        "host": record.host,
    }
    return {name: value for name, value in described.items() if value not in ("", None)}


def _lines(maps: list[Mapping[str, Any]] | list[dict[str, Any]]) -> list[Line]:
    names = list(dict.fromkeys(name for values in maps for name in values))[:_MOST_NAMES]
    return [_line(name, [values.get(name, _NONE) for values in maps]) for name in names]


def _line(name: str, values: list[Any]) -> Line:
    cells = [_cell(value) for value in values]
    written = {json.dumps(value, sort_keys=True, default=str) if value is not _NONE else "" for value in values}
    return Line(clean(name), cells, len(written) > 1)


def _cell(value: Any) -> Cell:
    if value is _NONE or value is None:
        return Cell("", False, value is None)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Cell(humane.figure(value), True, True)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return Cell(clean(text), False, True)
