"""Lists runs for people: by choices and by text, page by page, a group in one row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Request
from markupsafe import Markup
from starlette.responses import Response

from launch_worker.api.filters import NEWEST_FIRST, parse_filter, parse_order
from launch_worker.api.folding import folded, read_page
from launch_worker.errors import InputError
from launch_worker.model.run import Record
from launch_worker.model.sentences import sentence_of_group
from launch_worker.model.states import RunState
from launch_worker.people.roles import Act, Role, visible
from launch_worker.server.asker import Asker, allowed
from launch_worker.server.pages.rows import Row, make_rows, parse_marks
from launch_worker.server.pages.runs_view import CHOICES, View
from launch_worker.server.pages.shown import show
from launch_worker.server.served import Served
from launch_worker.server.shared import Shared, SharedHere
from launch_worker.server.templating import page
from launch_worker.untrusted.text import clean

router = APIRouter(include_in_schema=False)
Seeing = Annotated[Asker, allowed(Act.SEE_RUNS)]
#: Rows of a page, and newer rows that are counted.
_ROWS, _MOST_NEWER = 50, 100
#: Groups of the pages before that are passed over.
_MOST_PAST = 50
#: Values of a choice that are shown, the most frequent ones.
_MOST_VALUES = 12
#: Seconds for which counts by state and queue, by the other fields, and of a group that Redis has forgotten are kept.
_COUNTS_S, _OTHERS_S, _PAST_GROUP_S = 1.0, 10.0, 60.0
#: Seconds for which nobody waits for counts by the other fields, and for the number of all, while they are made anew.
_LATE_S = 60.0
#: For counts, which are the same in each order: one that nobody has written wrongly, as they are kept for everybody.
_ANY_ORDER = parse_order(NEWEST_FIRST)
#: Choices that are counted together: with others there would be too many pairs.
_TOGETHER = ("queue", "state")
_TITLES = {"state": "State", "queue": "Queue", "project": "Project", "tag": "Tag", "author": "Author"}
#: Columns by which one can sort: the field of each.
_SORTS = {"State": "state", "Name": "name", "Queue": "queue", "By": "author"}
_SORTS |= {"Waited": "created_at", "Time": "ended_at"}
#: Lists that everybody has.
_SAVED = [
    ("mine", View.of([("mine", "1")]).url()),
    ("failed, last 24 h", View.of([("state", "Failed"), ("state", "Crashed"), ("since", "24h")]).url()),
    ("running and waiting", View.of([("state", "Pending"), ("state", "Running")]).url()),
]


class Choice(NamedTuple):
    """A value of a facet."""

    value: str
    label: str
    number: int | None
    url: str
    is_chosen: bool


@dataclass
class Found:
    """What one reading of a list gave."""

    rows: list[Row] = field(default_factory=list)
    #: Address of the next page; '' at the end.
    next_url: str = ""
    notices: list[str] = field(default_factory=list)
    #: Rows that have come above the first one since; None where that is not known.
    newer: int | None = None


class Parts(NamedTuple):
    """The parts of a page that are the same for all who see the same projects."""

    rows: Markup
    facets: Markup
    #: How many runs fit, and how many there are; None for not known.
    matching: int | None
    total: int | None
    next_url: str
    #: What the runs of the group do, where the list is of one; else ''.
    group: str = ""


class Lister:
    """Reads one list for one person."""

    def __init__(self, shared: Shared, asker: Asker, view: View) -> None:
        self._shared = shared
        self._person = asker.person.name
        self._sight = visible(asker.person)
        self.served = Served(shared, asker)
        self.view = view
        self.now_us = self.served.now_us()
        self.filter = view.filter(self._person, self.now_us // 1000)

    # -- rows ------------------------------------------------------------------------------------------------------

    def page(self, after: str, past: Sequence[str]) -> Found:
        """The rows behind a place, without these groups of the pages before."""
        view = self.view
        read = read_page(
            self.served, self.filter, view.order, most=_ROWS, after=after, past=past, is_folded=view.is_folded
        )
        found = Found(self._rows(read.rows), notices=read.notices)
        if read.next:
            groups = [*past, *(row.group for row in found.rows if row.group)][-_MOST_PAST:]
            found.next_url = view.url(after=read.next, past=",".join(groups))
        return found

    def same(self, marks: Sequence[tuple[str, str]]) -> Found:
        """The rows that are in view already, as they are now."""
        found = Found()
        wanted = parse_filter({"id": {"$in": [run_id for run_id, _ in marks]}})
        listing = self.served.listing(wanted, self.view.order, per_page=len(marks))
        records = {record.id: record for record in listing.records()}
        found.notices = listing.notices
        found.rows = self._rows([(records[run_id], group) for run_id, group in marks if run_id in records])
        return found

    def newer(self, rows: Sequence[Row]) -> int | None:
        """How many rows have come above the first one; None in another order than the newest first."""
        if not rows or self.view.order.text != NEWEST_FIRST:
            return None
        parts: list[Mapping[str, Any]] = [self.filter.given]
        parts.append({"created_at": {"$gte": rows[0].record.created_at / 1e6}})
        if groups := [row.group for row in rows if row.group]:
            parts.append({"group": {"$nin": groups}})
        listing = self.served.listing(parse_filter({"$and": parts}), self.view.order, per_page=_MOST_NEWER)
        known = {row.record.id for row in rows}
        fresh = [record for record in islice(listing.records(), _MOST_NEWER) if record.id not in known]
        return len(folded(fresh)) if self.view.is_folded else len(fresh)

    def _rows(self, found: Sequence[tuple[Record, str]]) -> list[Row]:
        return make_rows(self.served, found, self.now_us, self._counted)

    def sentence_of_group(self) -> str:
        """What the runs of the group do that the list is of; '' for no group, or one whose counts are not known."""
        group = self.view.one("group")
        found = self.served.known_groups([group]).get(group) if group else None
        return "" if found is None else sentence_of_group(found, now_us=self.now_us)

    def _counted(self, group: str) -> Mapping[str, int]:
        """The runs of a group by state, as far as the person sees them."""

        def count() -> Mapping[str, int]:
            listing = self.served.listing(parse_filter({"group": group}), _ANY_ORDER, per_page=_ROWS)
            try:
                return {values[0]: number for values, number in listing.counts(["state"]).items()}
            except InputError:
                return Counter(record.state.value for record in listing.records())

        most_s = _PAST_GROUP_S if self._sight.is_everything else _COUNTS_S
        return self._shared.kept.get(("group", group, self._sight), count, most_s=most_s)

    # -- counts ----------------------------------------------------------------------------------------------------

    def facets(self) -> tuple[dict[str, list[Choice]], int | None, int | None]:
        """The choices with their counts, how many runs fit, and how many there are; None for not known."""
        given = self.view.given
        counted = self._counts(self.view, _TOGETHER)
        if counted is None:
            return self._facets_of_redis(), None, None
        by_field: dict[str, Counter[str]] = {name: Counter() for name in _TOGETHER}
        chosen = {name: set(given[name]) for name in _TOGETHER if name in given}
        matching = 0
        for values, number in counted.items():
            pairs = list(zip(_TOGETHER, values, strict=True))
            missed = [name for name, value in pairs if name in chosen and value not in chosen[name]]
            if not missed:
                matching += number
            # A facet counts what would fit if nothing were chosen in it.
            for name, value in pairs:
                if set(missed) <= {name}:
                    by_field[name][value] += number
        for name in CHOICES.keys() - set(_TOGETHER):
            found = self._counts(self.view, (name,), most_s=_OTHERS_S, late_s=_LATE_S) or {}
            by_field[name] = Counter({values[0]: number for values, number in found.items()})
        every = self._counts(View({}), _TOGETHER, late_s=_LATE_S) if self.view.is_filtered else counted
        total = None if every is None else sum(every.values())
        return {name: self._choices(name, by_field[name]) for name in CHOICES}, matching, total

    def _counts(
        self, view: View, by: Sequence[str], *, most_s: float = _COUNTS_S, late_s: float = 0.0
    ) -> Mapping[tuple[str, ...], int] | None:
        """How many runs have these values, whatever is chosen of these fields; None where nobody counts."""
        rest = View({name: values for name, values in view.given.items() if name not in by})
        given = rest.wanted(self._person, self.now_us // 1000)
        if rest.one("since"):
            # Its instant is another one each time.
            key: Any = (rest.key(), self._person if rest.one("mine") else "")
        else:
            key = parse_filter(given).to_json()

        def count() -> Mapping[tuple[str, ...], int] | None:
            try:
                listing = self.served.listing(parse_filter(given), _ANY_ORDER, per_page=_ROWS)
                return listing.counts(list(by))
            except InputError:
                return None

        return self._shared.kept.get(("counts", self._sight, tuple(by), key), count, most_s=most_s, late_s=late_s)

    def _facets_of_redis(self) -> dict[str, list[Choice]]:
        """Without an archive Redis counts by state and by queue."""
        found: dict[str, list[Choice]] = {}
        for name in ("state", "queue"):
            try:
                counted = self.served.listing(parse_filter({}), _ANY_ORDER, per_page=_ROWS).counts([name])
            except InputError:
                counted = {}
            found[name] = self._choices(name, {values[0]: number for values, number in counted.items()})
        return found

    def _choices(self, name: str, counted: Mapping[str, int]) -> list[Choice]:
        chosen = self.view.given.get(name, ())
        if name == "state":
            values = [state.value for state in RunState]
        else:
            often = sorted((value for value in counted if value), key=lambda value: (-counted[value], value))
            values = [*(value for value in chosen if value not in often[:_MOST_VALUES]), *often[:_MOST_VALUES]]
        return [
            Choice(value, clean(value), counted.get(value, 0), self.view.toggled(name, value), value in chosen)
            for value in values
        ]


@router.get("/runs")
def runs_page(request: Request, shared: SharedHere, asker: Seeing) -> Response:
    """The list. A page that is open asks with `rows`, and gets the rows that it shows, as they are now."""
    query = request.query_params
    view = View.of(query.multi_items())
    after, past, rows = query.get("after", ""), _ids(query.get("past", "")), query.get("rows", "")
    can_act = asker.person.highest >= Role.MEMBER
    # What differs between people who see the same projects is in the key.
    name = asker.person.name if view.one("mine") else ""
    key = ("runs", visible(asker.person), can_act, name, view.key(), after, tuple(past), rows)

    def make() -> Parts:
        return _parts(Lister(shared, asker, view), after, past, rows, can_act=can_act)

    parts = shared.kept.get(key, make)
    return show(
        request,
        shared,
        asker,
        "runs",
        view=view,
        parts=parts,
        is_first_page=not after,
        can_act=can_act,
        texts=[(name, value) for name, value in view.pairs(q="") if name != "sort" or value != NEWEST_FIRST],
        saved=_SAVED,
    )


def _parts(lister: Lister, after: str, past: Sequence[str], rows: str, *, can_act: bool) -> Parts:
    view = lister.view
    facets, matching, total = lister.facets()
    if rows:
        found = lister.same(parse_marks(rows, _ROWS))
        found.newer = None if after else lister.newer(found.rows)
    else:
        found = lister.page(after, past)
    marks = ",".join(row.mark for row in found.rows)
    table = page(
        "runs_rows",
        view=view,
        rows=found.rows,
        notices=found.notices,
        newer=found.newer,
        most_newer=_MOST_NEWER,
        again=view.url(after=after, past=",".join(past), rows=marks),
        columns=[(label, *_sort(view, label)) for label in (*_SORTS, "Why, or what it does", "Id")],
        can_act=can_act,
        matching=matching,
        total=total,
        is_first_page=not after,
    )
    side = page("runs_facets", facets=facets, titles=_TITLES, chosen=view.given)
    return Parts(Markup(table), Markup(side), matching, total, found.next_url, lister.sentence_of_group())


def _sort(view: View, label: str) -> tuple[str, str]:
    """The address that sorts by a column, and how the list is sorted by it now: up, down or ''."""
    path = _SORTS.get(label)
    if path is None:
        return "", ""
    order = view.order
    now = ("down" if order.is_descending else "up") if order.path == path else ""
    # The first press sorts numbers and times by the largest, names by the alphabet.
    is_time = path.endswith("_at")
    descending = not order.is_descending if now else is_time
    text = f"{'-' if descending else ''}{path}"
    return view.url(sort="" if text == NEWEST_FIRST else text), now


def _ids(text: str) -> list[str]:
    return [one for one in text.split(",")[:_MOST_PAST] if one]
