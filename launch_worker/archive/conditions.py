"""Makes conditions in SQL of a filter.

A condition has an upper bound, which no fitting row fails, and a lower bound, which only fitting rows pass. Where the
two are the same the database decides; else each row that passes the upper one is looked at.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    and_,
    any_,
    case,
    column,
    exists,
    false,
    func,
    literal,
    literal_column,
    not_,
    or_,
    select,
    table,
    true,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY

from launch_worker.archive.json_numbers import number_condition
from launch_worker.archive.rows import MAX_INDEXED, MAX_SEARCH, plain, search_term
from launch_worker.archive.schema import run_tags, runs
from launch_worker.ids import GROUP_ID, RUN_ID
from launch_worker.model.checks import PRIORITIES, group_key
from launch_worker.model.conditions import All, Condition, Not, Test
from launch_worker.model.states import RunState

#: Rows of a tag or a text that are few: they are fetched by its index. With more, rows are looked at in order.
FEW = 5000
#: Characters of the shortest term that an index of trigrams finds.
_TRIGRAM = 3
#: Values that are looked for in the search texts at once.
_MOST_TERMS = 20
#: Numbers of a row are smaller than this, and so are the numbers that they are compared with.
_MOST = 1 << 62

#: The condition that every row meets.
EVERY: ColumnElement[bool] = true()

_c = runs.c
#: Whether the search text may not have all of its parts. It is written as in the index of these rows.
_is_cut = func.length(_c.search) > literal_column(str(MAX_SEARCH))
#: SQLite's index of texts.
_search = table("runs_search", column("rowid"), column("runs_search"))
_TEXTS = ("id", "name", "project", "queue", "sweep", "array", "author", "user", "reason", "worker", "host")
_ORDERED = ("$gt", "$gte", "$lt", "$lte")
_NUMBERS = ("attempt", "exit_code", "created_at", "started_at", "ended_at")
#: Fields with few values: for each column, what a record says for each value of it.
_CHOICES: dict[str, dict[Any, str]] = {
    "state": {state.value: state.value for state in RunState},
    "priority": {step: word for word, step in PRIORITIES.items()},
}


@dataclass(frozen=True)
class Bounds:
    upper: ColumnElement[bool]
    lower: ColumnElement[bool]

    @property
    def is_exact(self) -> bool:
        return self.upper is self.lower


def _exactly(condition: ColumnElement[bool]) -> Bounds:
    return Bounds(condition, condition)


class Conditions:
    """Makes conditions for one database; asks it for how many rows a tag or a text is."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._is_sqlite = connection.dialect.name == "sqlite"

    def of(self, condition: Condition) -> Bounds:
        if isinstance(condition, Test):
            return self._test(condition)
        if isinstance(condition, Not):
            inner = self.of(condition.part)
            if inner.is_exact:
                return _exactly(not_(inner.upper))
            return Bounds(not_(inner.lower), not_(inner.upper))
        if condition == All():
            return _exactly(EVERY)
        join = and_ if isinstance(condition, All) else or_
        neutral = true() if isinstance(condition, All) else false()
        parts = [self.of(part) for part in condition.parts]
        if all(part.is_exact for part in parts):
            return _exactly(join(neutral, *(part.upper for part in parts)))
        return Bounds(join(neutral, *(part.upper for part in parts)), join(neutral, *(part.lower for part in parts)))

    def one_of(self, column: ColumnElement[Any], values: Sequence[Any]) -> ColumnElement[bool]:
        """Whether the column has one of many values, which are one parameter: databases bound the number of those."""
        if not values:
            return false()
        if self._is_sqlite:
            return column.in_(select(func.json_each(json.dumps(list(values))).table_valued("value").c.value))
        return column == any_(literal(list(values), ARRAY(column.type)))

    def _test(self, test: Test) -> Bounds:
        if test.path in _CHOICES:
            return _exactly(_choice(test))
        if test.path in _NUMBERS:
            return _exactly(_number(test))
        if test.path == "text":
            return _exactly(self._has_text(test.operands[0]))
        if any(isinstance(value, str) and not _is_plain(value) for value in test.operands) or test.word == "$regex":
            return Bounds(true(), false())
        if test.path in _TEXTS:
            return _exactly(_text(test))
        if test.path == "group":
            return Bounds(true(), false()) if test.word in _ORDERED else _exactly(_group(test))
        if test.path == "tags":
            return _exactly(self._tag(test))
        return Bounds(self._may_have(test), false())

    def _has_text(self, term: str) -> ColumnElement[bool]:
        """Whether the term is in the row's search text."""
        return self._has_one_of([search_term(term)])

    def _has_one_of(self, terms: Sequence[str], *, or_is_cut: bool = False) -> ColumnElement[bool]:
        """Whether one of the terms is in the row's search text; `or_is_cut`: or may be in what is cut off of it."""
        is_in = [_c.search.contains(term, autoescape=True) for term in terms]
        has = or_(*is_in, _is_cut) if or_is_cut else or_(*is_in)
        if any(len(term) < _TRIGRAM for term in terms) or not (self._is_sqlite or or_is_cut):
            # PostgreSQL uses its index for LIKE by itself, but for a part of an OR.
            return has
        found: Any = select(_c.number).where(or_(*is_in))
        if self._is_sqlite:
            phrases = " OR ".join('"' + term.replace('"', '""') + '"' for term in terms)
            found = select(_search.c.rowid).where(_search.c.runs_search.match(phrases))
        if or_is_cut:
            found = union_all(select(_c.number).where(_is_cut), found)
        numbers = self._connection.execute(found.limit(FEW + 1)).scalars().all()
        return has if len(numbers) > FEW else and_(has, self.one_of(_c.number, numbers))

    def _may_have(self, test: Test) -> ColumnElement[bool]:
        """What a row has for certain whose config or summary passes."""
        if test.passes(None):
            return EVERY
        compared = number_condition(test, is_sqlite=self._is_sqlite)
        if compared is not None:
            return compared
        head, _, rest = test.path.partition(".")
        if head != "config":
            # Of a run that is not sealed only Redis has the summary.
            return or_(_c.record == "", _c.record.contains('"summary"'))
        terms = _written(rest, test)
        if terms:
            return self._has_one_of(terms, or_is_cut=True)
        key = plain(json.dumps(rest.partition(".")[0], ensure_ascii=False)[:-1])
        return _c.config.contains(key, autoescape=True)

    def _tag(self, test: Test) -> ColumnElement[bool]:
        has_some = exists().where(run_tags.c.run_id == _c.id)
        if test.word == "$exists":
            return has_some if test.operands[0] else not_(has_some)
        tags = [tag for tag in test.operands if tag is not None]
        found: list[ColumnElement[bool]] = [not_(has_some)] if None in test.operands else []
        if tags:
            wanted = run_tags.c.tag.in_(tags)
            ids = self._connection.execute(select(run_tags.c.run_id).where(wanted).limit(FEW + 1)).scalars().all()
            is_many = len(ids) > FEW
            found.append(exists().where(run_tags.c.run_id == _c.id, wanted) if is_many else self.one_of(_c.id, ids))
        has = or_(false(), *found)
        return has if test.word in ("$eq", "$in") else not_(has)


def key_of(path: str) -> ColumnElement[Any] | None:
    """The value by which rows are sorted, NULL or '' for rows that come last; None where no column has it."""
    if path == "state":
        return case({state.value: at for at, state in enumerate(RunState)}, value=_c.state, else_=len(RunState))
    if path == "priority":
        return case(_CHOICES["priority"], value=_c.priority, else_="")
    return _c[path] if path in (*_TEXTS, *_NUMBERS) else None


def is_there(path: str) -> ColumnElement[bool]:
    """Whether a row has a value to be sorted by."""
    if path == "priority":
        return _c.priority.in_(list(_CHOICES["priority"]))
    if path in _NUMBERS:
        return _c[path].is_not(None) if _c[path].nullable else true()
    return true() if path == "state" else _c[path] != ""


def _choice(test: Test) -> ColumnElement[bool]:
    choices = _CHOICES[test.path]
    passing = [value for value, said in choices.items() if test.passes(said)]
    column = _c[test.path]
    return or_(column.in_(passing), column.not_in(list(choices))) if test.passes("") else column.in_(passing)


def _number(test: Test) -> ColumnElement[bool]:
    column = _c[test.path]
    is_known = column.is_not(None)
    if test.word == "$exists":
        return is_known if test.operands[0] else column.is_(None)
    if test.word in ("$eq", "$in", "$ne", "$nin"):
        whole = [_whole(value) for value in test.operands if value is not None and value == math.floor(value)]
        found: list[ColumnElement[bool]] = [column.is_(None)] if None in test.operands else []
        if whole:
            found.append(and_(is_known, column.in_(whole)))
        has = or_(false(), *found)
        return has if test.word in ("$eq", "$in") else not_(has)
    value = test.operands[0]
    # Rows have whole numbers: one that is not lies between two of them.
    if test.word in ("$gt", "$lte"):
        edge = _whole(math.floor(value))
        return and_(is_known, column > edge if test.word == "$gt" else column <= edge)
    edge = _whole(math.ceil(value))
    return and_(is_known, column >= edge if test.word == "$gte" else column < edge)


def _text(test: Test) -> ColumnElement[bool]:
    column = _c[test.path]
    if test.word == "$exists":
        return column != "" if test.operands[0] else column == ""
    if test.word in ("$eq", "$in", "$ne", "$nin"):
        wanted = ["" if value is None else value for value in test.operands]
        has = column.in_(wanted) if len(wanted) != 1 else column == wanted[0]
        return has if test.word in ("$eq", "$in") else not_(has)
    value = test.operands[0]
    if test.word == "$last":
        # LIKE makes no difference of letter cases in SQLite.
        return or_(column == value, func.substr(column, func.length(column) - len(value)) == f"/{value}")
    compared = {"$gt": column > value, "$gte": column >= value, "$lt": column < value, "$lte": column <= value}
    return and_(column != "", compared[test.word])


def _group(test: Test) -> ColumnElement[bool]:
    """Whether the run is in one of these groups: in an array or a bulk submission, else in a sweep."""
    is_alone = and_(_c.array == "", _c.sweep == "")
    if test.word == "$exists":
        return not_(is_alone) if test.operands[0] else is_alone
    wanted = [value for value in test.operands if value]
    # An array's id is that of its first run, with a letter that the column does not have.
    keys = {group_key(value) for value in wanted if GROUP_ID.fullmatch(value)}
    keys |= {value for value in wanted if not RUN_ID.fullmatch(value)}
    found: list[ColumnElement[bool]] = [is_alone] if len(wanted) < len(test.operands) else []
    if keys:
        found.append(_c.array.in_(sorted(keys)))
    if wanted:
        found.append(and_(_c.array == "", _c.sweep.in_(wanted)))
    has = or_(false(), *found)
    return has if test.word in ("$eq", "$in") else not_(has)


def _written(path: str, test: Test) -> list[str]:
    """Texts, one of which is in the JSON of each config that passes, as search texts have it; none where not known."""
    operands = test.operands
    is_known = test.word in ("$eq", "$in") and all(isinstance(value, (str, int, float)) for value in operands)
    if not is_known or not 0 < len(operands) <= _MOST_TERMS:
        return []
    # In W&B's filters a value is `config.NAME.value`.
    name = path.rpartition(".")[2]
    key = "" if name == "value" else json.dumps(name, ensure_ascii=False)[1:-1]
    terms = set()
    for form in (form for value in operands for form in _forms(value)):
        # A list that has the value passes too. A number ends where another one may go on.
        is_text = form[0] == '"'
        terms |= {f'{key}": {form}{end}' for end in ([""] if is_text else [",", "}"])}
        terms |= {f"{begin}{form}{end}" for begin in ("[", ", ") for end in ([""] if is_text else [",", "]"])}
    return [search_term(term) for term in sorted(terms)]


def _forms(value: Any) -> list[str]:
    """The texts, one of which is in the JSON of a config that has the value."""
    forms = [json.dumps(value, ensure_ascii=False)]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 1000:
        forms.append(json.dumps(float(value)))
    elif isinstance(value, float) and value.is_integer():
        forms.append(json.dumps(int(value)))
    return forms


def _whole(value: float) -> ColumnElement[int]:
    return literal(max(-_MOST, min(_MOST, int(value))), BigInteger)


def _is_plain(value: str) -> bool:
    return len(value) < MAX_INDEXED and plain(value) == value
