"""Reads a list of runs so that each array, bulk submission and sweep is one row, for pages and for terminals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import dropwhile, islice
from typing import Any, Protocol

from launch_worker.api.bookmarks import Bookmark, bookmark
from launch_worker.api.filters import Filter, Order, parse_filter
from launch_worker.api.transport import RunList
from launch_worker.model.run import Record
from launch_worker.model.states import RunState

#: Readings of one page at most, each of which passes over the groups that are there; and the runs of a later one.
_MOST_READINGS, _NEXT_READING = 25, 20
#: Order in which a state speaks for its group.
_LOUDEST = (RunState.RUNNING, RunState.PENDING, RunState.FAILED, RunState.CRASHED, RunState.KILLED, RunState.FINISHED)


class Lists(Protocol):
    """Whoever lists runs: a transport, and a server for one person."""

    def listing(self, wanted: Filter, order: Order, *, per_page: int) -> RunList: ...


@dataclass
class Page:
    """Rows of a list, one for each group."""

    #: A run and, for the row of a group, the group's id.
    rows: list[tuple[Record, str]] = field(default_factory=list)
    #: Place behind which the next page begins; '' at the end of the list.
    next: str = ""
    #: Sentences for people about what was read, each once.
    notices: list[str] = field(default_factory=list)


def read_page(
    lists: Lists,
    wanted: Filter,
    order: Order,
    *,
    most: int,
    after: str = "",
    past: Sequence[str] = (),
    is_folded: bool = True,
) -> Page:
    """The rows behind a place, `most` of them, without the groups `past`; a run for each row unless it is folded."""
    page, shown, passed = Page(), dict[str, Record](), list(past)
    place, size, is_end = after, most + 1, False
    for _ in range(_MOST_READINGS if is_folded else 1):
        records = _read(lists, wanted, order, place, passed, size, page.notices)
        for record in records:
            if len(shown) == most:
                break
            shown.setdefault((is_folded and record.group) or record.id, record)
            place = bookmark(order, record)
        else:
            is_end = len(records) < size
        if is_end or len(shown) == most:
            break
        passed = [*past, *(key for key, record in shown.items() if key != record.id)]
        size = min(most + 1 - len(shown), _NEXT_READING)
    page.rows = [(record, key if key != record.id else "") for key, record in shown.items()]
    page.next = "" if is_end else place
    return page


def folded(records: Iterable[Record]) -> dict[str, Record]:
    """The first run of each group, and each run of none, by the id of the group or of the run."""
    found: dict[str, Record] = {}
    for record in records:
        found.setdefault(record.group or record.id, record)
    return found


def loudest(counts: Mapping[str, int]) -> RunState | None:
    """The state that speaks for a group of which so many runs have which state; None for a group without runs."""
    return next((state for state in _LOUDEST if counts.get(state.value)), None)


def _read(
    lists: Lists, wanted: Filter, order: Order, after: str, passed: Sequence[str], size: int, notices: list[str]
) -> list[Record]:
    parts: list[Mapping[str, Any]] = [wanted.given]
    place = Bookmark(order, after) if after else None
    if place is not None and place.condition:
        parts.append(place.condition)
    if passed:
        parts.append({"group": {"$nin": list(passed)}})
    listing = lists.listing(parse_filter({"$and": parts}) if len(parts) > 1 else wanted, order, per_page=size)
    records = listing.records()
    if place is not None:
        records = dropwhile(lambda record: not place.is_behind(record), records)
    taken = list(islice(records, size))
    notices += [notice for notice in listing.notices if notice not in notices]
    return taken
