"""Answers questions about the archive's runs: lists in pages, counts, facets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, and_, func, or_, select, tuple_

from launch_worker.archive.conditions import EVERY, Conditions, is_there, key_of
from launch_worker.archive.rows import restored_record
from launch_worker.archive.schema import position, run_tags, runs
from launch_worker.database.database import Database
from launch_worker.database.version import check_version
from launch_worker.model.conditions import Condition
from launch_worker.model.run import Record
from launch_worker.store.records import record_of

_c = runs.c
#: Columns of which a record is made, and those that say what it is worth.
_COLUMNS = (
    *(_c.id, _c.name, _c.project, _c.queue, _c.priority, _c.created_at, _c.array, _c.sweep, _c.state, _c.reason),
    *(_c.attempt, _c.worker, _c.host, _c.exit_code, _c.signal, _c.phase, _c.message, _c.started_at, _c.ended_at),
    *(_c.user, _c.spec, _c.record, _c.sealed, _c.forgotten_at),
)
#: The beginning of every list.
_KEPT = select(*_COLUMNS).where(_c.deleted_at.is_(None))
#: Fields whose values are counted. All but tags are in one index, and counting reads nothing else.
FACETS = ("state", "queue", "project", "author", "user", "name", "tag")
#: Fields by which the index for counts is sorted first.
_COUNTED = ("queue", "state", "project", "author", "user")
#: Rows of one read where they are looked at one by one, or are sorted by what no column has.
_SCAN_PAGE = 500


@dataclass(frozen=True)
class Question:
    """A filter and an order."""

    tree: Condition
    #: The same filter for one record.
    fits: Callable[[Record], bool]
    #: Field by which runs are sorted; runs without a value come last, and equal ones with the newest first.
    order: str = "created_at"
    is_descending: bool = True


class Found(NamedTuple):
    """A run in the archive."""

    record: Record
    #: Whether the record is Redis' last word: Redis said that the run had ended, and all of it was read then.
    is_sealed: bool
    #: Whether Redis lost the run before it ended.
    is_lost: bool
    #: Place in the order, for the next page.
    place: Place


class Place(NamedTuple):
    """The place of a run in an order: lists go on after it, whatever came or went."""

    is_there: bool
    key: Any
    created_at: int
    id: str


@dataclass(frozen=True)
class Position:
    """How far the archive is."""

    #: Newest entry of the feed that was applied; '' for none.
    feed_id: str
    #: Time of that entry, in server microseconds; 0 for never.
    applied_at: int
    #: Whether each run is as Redis had it then: all of Redis was compared since the archive last missed something.
    is_whole: bool


def where_it_is(database: Database) -> Position:
    """How far the archive is now. Raises ArchiveError where it cannot be read."""
    check_version(database)
    c = position.c
    with database.reading() as connection:
        row = connection.execute(select(c.feed_id, c.applied_at, c.walk_ended_at, c.missed_at)).one()
    return Position(row.feed_id, row.applied_at, bool(row.walk_ended_at) and row.missed_at is None)


def listed(database: Database, question: Question, *, page: int, after: Place | None = None) -> Iterator[list[Found]]:
    """Yield the runs that fit, or may fit and are not sealed, `page` rows at a time, each page of its own time.

    The order must be of a column (`has_key`). A page has less than `page` runs where rows did not fit.
    """
    while True:
        with database.reading() as connection:
            bounds = Conditions(connection).of(question.tree)
            size = page if bounds.is_exact else max(page, _SCAN_PAGE)
            rows = _page(connection, bounds.upper, question, after, size)
        found = [_found(row, place) for row, place in rows]
        if not bounds.is_exact:
            found = [one for one in found if not one.is_sealed or question.fits(one.record)]
        yield found
        if len(rows) < size:
            return
        after = rows[-1][1]


def has_key(order: str) -> bool:
    """Whether the database can sort by this field."""
    return key_of(order) is not None


def records(database: Database, run_ids: Sequence[str]) -> dict[str, Found]:
    """These runs, without those that are not there."""
    with database.reading() as connection:
        query = _KEPT.where(Conditions(connection).one_of(_c.id, run_ids))
        return {row["id"]: _found(row, _NOWHERE) for row in connection.execute(query).mappings()}


def count(database: Database, question: Question, *, without: Sequence[str] = ()) -> int | None:
    """How many runs fit, these not counted; None where rows must be looked at."""
    with database.reading() as connection:
        bounds = Conditions(connection).of(question.tree)
        if not bounds.is_exact:
            return None
        query = select(func.count()).select_from(runs).where(_c.deleted_at.is_(None), bounds.upper)
        if without:
            query = query.where(~Conditions(connection).one_of(_c.id, without))
        return int(connection.execute(query).scalar_one())


def facets(database: Database, question: Question, fields: Sequence[str]) -> dict[tuple[str, ...], int]:
    """How many of the runs that fit have which values of these fields (`FACETS`), by what the archive has alone."""
    found = counts(database, question, fields)
    if found is not None:
        return found
    pages = listed(database, question, page=_SCAN_PAGE)
    return tally((one.record for page in pages for one in page if question.fits(one.record)), fields)


def counts(
    database: Database, question: Question, fields: Sequence[str], *, without: Sequence[str] = ()
) -> dict[tuple[str, ...], int] | None:
    """How many of the runs that fit have which values of these fields (`FACETS`); None where rows must be looked at.

    `without` are not counted. A run counts once for each of its tags, and not at all where it has none.
    """
    if not fields or any(field not in FACETS for field in fields):
        raise ValueError(f"facets are of {FACETS}, not of {fields}")
    # A filter's own part for tags is of the table by its name.
    tags = run_tags.alias()
    columns = [tags.c.tag if field == "tag" else _c[field] for field in fields]
    with database.reading() as connection:
        conditions = Conditions(connection)
        bounds = conditions.of(question.tree)
        if not bounds.is_exact:
            return None
        query, run_id = select(*columns, func.count()), _c.id
        if list(fields) == ["tag"] and bounds.upper is EVERY:
            # A deleted run has no tags.
            query, run_id = query.select_from(tags), tags.c.run_id
        else:
            tables = runs.join(tags, tags.c.run_id == _c.id) if "tag" in fields else runs
            query = query.select_from(tables).where(_c.deleted_at.is_(None), bounds.upper)
        if without:
            query = query.where(~conditions.one_of(run_id, without))
        groups: list[ColumnElement[Any]] = list(columns)
        first = _COUNTED[: len(fields)]
        if set(fields) == set(first):
            groups = [_c[field] for field in first]
        elif database.is_sqlite and "tag" not in fields:
            # Else it takes another index, which has the groups in order, and looks at each row besides.
            groups = [column.concat("") for column in columns]
        return {tuple(values): number for *values, number in connection.execute(query.group_by(*groups))}


def ended(database: Database, question: Question, *, since: int, span_us: int) -> dict[tuple[int, str], int]:
    """How many of the runs that fit ended in which span of time after `since`, and in which state.

    The question must be one that the database decides.
    """
    with database.reading() as connection:
        bounds = Conditions(connection).of(question.tree)
        assert bounds.is_exact
        span = (_c.ended_at - since) // span_us
        query = select(span.label("span"), _c.state, func.count()).where(_c.ended_at >= since, bounds.upper)
        query = query.where(_c.deleted_at.is_(None)).group_by("span", _c.state)
        return {(int(at), state): number for at, state, number in connection.execute(query)}


def tally(records: Iterable[Record], fields: Sequence[str]) -> dict[tuple[str, ...], int]:
    """The same of these records."""
    return dict(
        Counter(
            values
            for record in records
            for values in product(
                *(record.tags if field == "tag" else [str(getattr(record, field))] for field in fields)
            )
        )
    )


#: Place of a run that no list has found.
_NOWHERE = Place(False, None, 0, "")


def _page(
    connection: Connection, upper: ColumnElement[bool], question: Question, after: Place | None, size: int
) -> list[tuple[Any, Place]]:
    """The next rows with their places: first those that have a value to be sorted by."""
    found: list[tuple[Any, Place]] = []
    for part in (True, False):
        if after is not None and after.is_there < part:
            continue
        query = _ordered(question.order, question.is_descending, part)
        if query is not None:
            if upper is not EVERY:
                query = query.where(upper)
            if after is not None and after.is_there == part:
                query = query.where(_comes_after(question, after))
            rows = connection.execute(query.limit(size - len(found))).mappings().all()
            found += [(row, Place(part, row["key"], row["created_at"], row["id"])) for row in rows]
        if len(found) == size:
            break
    return found


@lru_cache
def _ordered(order: str, is_descending: bool, part: bool) -> Select[Any] | None:
    """All rows in an order that have a value to be sorted by, or all that have none; None where none can be."""
    if order == "created_at":
        if not part:
            return None
        by = [column.desc() if is_descending else column for column in (_c.created_at, _c.id)]
        return _KEPT.add_columns(_c.created_at.label("key")).order_by(*by)
    key = key_of(order)
    assert key is not None
    there = is_there(order)
    by = [(key.desc() if is_descending else key.asc())] if part else []
    query = _KEPT.add_columns(key.label("key")).where(there if part else ~there)
    return query.order_by(*by, _c.created_at.desc(), _c.id.desc())


def _comes_after(question: Question, after: Place) -> ColumnElement[bool]:
    by_age, edge = tuple_(_c.created_at, _c.id), tuple_(after.created_at, after.id)
    if question.order == "created_at" and not question.is_descending:
        return by_age > edge
    if question.order == "created_at" or not after.is_there:
        return by_age < edge
    key = key_of(question.order)
    assert key is not None
    # Written so that an index of the key gives the beginning.
    from_key = key <= after.key if question.is_descending else key >= after.key
    return and_(from_key, or_(key != after.key, by_age < edge))


def _found(row: Any, place: Place) -> Found:
    is_lost = row["ended_at"] is None and row["forgotten_at"] is not None
    return Found(restored_record(row, record_of), row["sealed"] is not None, is_lost, place)
