"""Reads W&B's Mongo-style filters and orders of runs, matches records, and picks the index that decides a filter.

After W&B's `Api.runs`: `{"$and": [{"state": "finished"}, {"config.lr": {"$gt": 0.01}}]}`. Everything in a filter is
checked before the first run is read.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from launch_worker.archive.rows import search_term, search_text
from launch_worker.errors import InputError
from launch_worker.model.checks import PRIORITIES
from launch_worker.model.conditions import All, AnyOf, Condition, Not, Test
from launch_worker.model.run import Record
from launch_worker.model.states import RunState
from launch_worker.untrusted.patterns import MAX_PATTERN, PatternError, searcher

MAX_CONDITIONS = 200
MAX_CHOICES = 1000
MAX_DEPTH = 20
MAX_PATH = 200
MAX_TEXT = 200
#: Characters of a text that are matched.
MAX_MATCHED = 4096
#: Seconds of processor time for one pattern on all runs. One that is no trap takes a microsecond a run.
_MAX_SEARCHING_S = 5.0

#: Fields that the store has an index of; a run has at most one value of each.
INDEXED = ("sweep", "project", "queue", "state")
#: Order of lists where nobody asks for another one.
NEWEST_FIRST = "-created_at"

#: Field that is all texts of a run by which people look for it.
_TEXT = "text"
_LEVELS = {step: word for word, step in PRIORITIES.items()}


@dataclass(frozen=True)
class _Field:
    """A field that a filter can name. Its kind decides about operands and operators."""

    kind: str
    read: Callable[[Record], Any]


_FIELDS: dict[str, _Field] = {
    "id": _Field("text", lambda record: record.id),
    "name": _Field("text", lambda record: record.name),
    "project": _Field("text", lambda record: record.project),
    "queue": _Field("text", lambda record: record.queue),
    "sweep": _Field("text", lambda record: record.sweep),
    "array": _Field("text", lambda record: record.array or record.bulk),
    "group": _Field("text", lambda record: record.group),
    "author": _Field("text", lambda record: record.author),
    "user": _Field("text", lambda record: record.user),
    "priority": _Field("text", lambda record: _LEVELS.get(record.priority, "")),
    "reason": _Field("text", lambda record: record.reason),
    "worker": _Field("text", lambda record: record.worker),
    "host": _Field("text", lambda record: record.host),
    "state": _Field("state", lambda record: record.state.value),
    "tags": _Field("list", lambda record: record.tags),
    "attempt": _Field("number", lambda record: record.attempt),
    "exit_code": _Field("number", lambda record: record.exit_code),
    "created_at": _Field("time", lambda record: record.created_at),
    "started_at": _Field("time", lambda record: record.started_at),
    "ended_at": _Field("time", lambda record: record.ended_at),
    _TEXT: _Field("search", search_text),
}
#: Fields with names below them: `config.lr`, `summary.loss`.
_MAPS: dict[str, Callable[[Record], Mapping[str, Any]]] = {
    "config": lambda record: record.config,
    "summary": lambda record: record.summary_values,
}
#: W&B's names of our fields.
_ALIASES = {
    "display_name": "name",
    "displayName": "name",
    "createdAt": "created_at",
    "summary_metrics": "summary",
    "summaryMetrics": "summary",
    "username": "author",
}

_ORDERED = ("$gt", "$gte", "$lt", "$lte")
_OPERATORS = ("$eq", "$ne", "$in", "$nin", *_ORDERED, "$regex", "$exists", "$not")
_TOGETHER = ("$and", "$or", "$nor")
#: Operator for the last part of a project alone; no filter of a user needs it.
_LAST = "$last"
#: The one operator of `text`.
_CONTAINS = "$contains"

_Test = Callable[[Any], bool]
#: Values of indexed fields: a run must have one of each field's.
Narrow = dict[str, frozenset[str]]


@dataclass(frozen=True)
class Filter:
    """A checked filter."""

    matches: Callable[[Record], bool]
    #: Values of indexed fields, one of which a fitting run has: an index leaves out all others.
    narrow: Narrow
    #: Whether `narrow` says all that the filter says.
    is_decided: bool
    tree: Condition
    #: Filter as it was given, from which `parse_filter` makes the same again.
    given: Mapping[str, Any]

    def to_json(self) -> str:
        """The filter as it was given, as JSON."""
        return json.dumps(self.given, ensure_ascii=False, default=_plain)


@dataclass(frozen=True)
class Order:
    """The field by which runs are sorted, and the direction."""

    path: str
    is_descending: bool

    @property
    def text(self) -> str:
        """The order as `parse_order` reads it."""
        return f"{'-' if self.is_descending else '+'}{self.path}"

    @property
    def is_by_creation(self) -> bool:
        return self.path == "created_at"

    def key(self, record: Record) -> tuple[int, Any] | None:
        """The sort key of a record; None for a record without the value, which comes last in both directions."""
        value = _reader(self.path)(record)
        if self.path == "state":
            return 0, list(RunState).index(record.state)
        if isinstance(value, (bool, int, float)):
            return (0, value) if math.isfinite(value) else None
        if isinstance(value, str):
            return (1, value) if value else None
        if isinstance(value, (list, tuple, dict)):
            return 2, json.dumps(value, sort_keys=True, default=str)
        return None


def parse_filter(filters: Mapping[str, Any] | None, *, path: str | None = None) -> Filter:
    """Check a filter; `path` is a project beside it, ENTITY/PROJECT or the last part alone. Raises InputError."""
    parts: list[Any] = [] if path is None else [{"project": path if "/" in path else {_LAST: path}}]
    if filters:
        if not isinstance(filters, Mapping):
            raise InputError(f"filters must be a map such as {{'state': 'running'}}, not {_shown(filters)}")
        parts.append(dict(filters))
    node = _Parser().group(parts, depth=0)
    return Filter(node.matches, node.narrow, node.is_decided, node.tree, {"$and": parts} if parts else {})


def parse_order(text: str) -> Order:
    """`-created_at`, `+summary.loss`, `name`: without a sign the smallest is first. Raises InputError."""
    if not isinstance(text, str) or not text.lstrip("+-"):
        raise InputError(f"order {_shown(text)} names nothing to sort by; write it as -created_at or +summary.loss")
    path = _path(text[1:] if text[0] in "+-" else text)
    if path == _TEXT:
        raise InputError(f"runs cannot be sorted by {path}")
    return Order(path, text.startswith("-"))


def value_of(record: Record, path: str) -> Any:
    """The value of a field, `config.lr` or `summary.loss` of a run; None for none."""
    return _reader(path)(record)


@dataclass(frozen=True)
class _Node:
    matches: Callable[[Record], bool]
    narrow: Narrow
    is_decided: bool
    tree: Condition


class _Parser:
    def __init__(self) -> None:
        self._conditions = 0

    def group(self, filters: Sequence[Any], *, depth: int) -> _Node:
        """All of these filters together."""
        return _all([self._one(each, depth=depth) for each in filters])

    def _one(self, filters: Any, *, depth: int) -> _Node:
        if depth > MAX_DEPTH:
            raise InputError(f"the filter is nested more than {MAX_DEPTH} levels deep; write it flatter")
        if not isinstance(filters, Mapping):
            raise InputError(f"each part of a filter must be a map of fields to conditions, not {_shown(filters)}")
        parts = []
        for name, condition in filters.items():
            self._conditions += 1
            if self._conditions > MAX_CONDITIONS:
                raise InputError(f"the filter has more than {MAX_CONDITIONS} conditions")
            if isinstance(name, str) and name.startswith("$"):
                parts.append(self._together(name, condition, depth=depth))
            else:
                parts.append(self._field(_path(name), condition, depth=depth))
        return _all(parts)

    def _together(self, word: str, filters: Any, *, depth: int) -> _Node:
        if word not in _TOGETHER:
            hint = "put it behind a field" if word in _OPERATORS else f"use one of: {', '.join(_TOGETHER)}"
            raise InputError(f"{word[:40]!r} does not join filters; {hint}")
        if not isinstance(filters, (list, tuple)) or not filters:
            raise InputError(f"{word} needs a list of filters, not {_shown(filters)}")
        if word == "$and":
            return self.group(filters, depth=depth + 1)
        parts = [self._one(each, depth=depth + 1) for each in filters]
        if word == "$nor":
            tree = Not(AnyOf(tuple(part.tree for part in parts)))
            return _Node(lambda record: not any(part.matches(record) for part in parts), {}, False, tree)
        narrow = {
            kind: frozenset().union(*(part.narrow[kind] for part in parts))
            for kind in INDEXED
            if all(kind in part.narrow for part in parts)
        }
        # With several fields the union by field has more than the union of the alternatives.
        decided = all(part.is_decided and len(part.narrow) == 1 for part in parts) and len(narrow) == 1
        either = AnyOf(tuple(part.tree for part in parts))
        return _Node(lambda record: any(part.matches(record) for part in parts), narrow, decided, either)

    def _field(self, path: str, condition: Any, *, depth: int) -> _Node:
        if not isinstance(condition, Mapping):
            condition = {"$eq": condition}
        if not condition:
            raise InputError(f"the condition of {path} is empty; write for instance {{'{path}': {{'$exists': true}}}}")
        return _all([self._test(path, word, operand, depth=depth) for word, operand in condition.items()])

    def _test(self, path: str, word: Any, operand: Any, *, depth: int) -> _Node:
        if path == _TEXT and word not in (_CONTAINS, "$not"):
            raise InputError(f"write the condition of {path} as {{'{path}': {{'{_CONTAINS}': 'adam'}}}}")
        if not isinstance(word, str) or word not in (*_OPERATORS, _LAST, _CONTAINS):
            raise InputError(f"{_shown(word)} of {path} is no operator; use one of: {', '.join(_OPERATORS)}")
        if depth > MAX_DEPTH:
            raise InputError(f"the filter is nested more than {MAX_DEPTH} levels deep; write it flatter")
        if word == "$not":
            if not isinstance(operand, Mapping):
                raise InputError(f"$not of {path} needs a condition such as {{'$gt': 1}}, not {_shown(operand)}")
            inner = self._field(path, operand, depth=depth + 1)
            return _Node(lambda record: not inner.matches(record), {}, False, Not(inner.tree))
        kind = _FIELDS[path].kind if path in _FIELDS else "any"
        test, operands = _tester(path, kind, word, operand)
        read = _reader(path)
        narrow: Narrow = {}
        if path in INDEXED and word in ("$eq", "$in") and None not in operands:
            narrow = {path: frozenset(operands)}
        tree = Test(path, word, tuple(operands), test)
        return _Node(lambda record: test(read(record)), narrow, bool(narrow), tree)


def _all(parts: Sequence[_Node]) -> _Node:
    if len(parts) == 1:
        return parts[0]
    narrow: Narrow = {}
    for part in parts:
        for kind, values in part.narrow.items():
            narrow[kind] = narrow.get(kind, values) & values
    return _Node(
        lambda record: all(part.matches(record) for part in parts),
        narrow,
        all(part.is_decided for part in parts),
        All(tuple(part.tree for part in parts)),
    )


def _tester(path: str, kind: str, word: str, operand: Any) -> tuple[_Test, list[Any]]:
    """A test of a value, and the operands as a record has such values."""
    if word == "$exists":
        if not isinstance(operand, bool):
            raise InputError(f"$exists of {path} must be true or false, not {_shown(operand)}")
        return lambda value: _is_there(value) == operand, [operand]
    if word == "$regex":
        return _regex(path, kind, operand), [operand]
    if word in _ORDERED:
        return _compare(path, kind, word, operand)
    if word == _CONTAINS:
        return _contains(path, operand)
    if word == _LAST:
        if path != "project" or not isinstance(operand, str):
            raise InputError(f"{word} is for the last part of a project, and needs a text")
        return lambda value: str(value).rpartition("/")[2] == operand, [operand]
    if word in ("$in", "$nin"):
        if not isinstance(operand, (list, tuple, set, frozenset)):
            raise InputError(f"{word} of {path} needs a list of values, not {_shown(operand)}")
        if len(operand) > MAX_CHOICES:
            raise InputError(f"{word} of {path} has {len(operand):,} values; at most {MAX_CHOICES:,} are looked for")
        wanted = [_operand(path, kind, word, each) for each in operand]
    else:
        wanted = [_operand(path, kind, word, operand)]
    if word in ("$ne", "$nin"):
        return lambda value: not any(_has(value, each) for each in wanted), wanted
    return lambda value: any(_has(value, each) for each in wanted), wanted


def _contains(path: str, operand: Any) -> tuple[_Test, list[Any]]:
    if path != _TEXT:
        raise InputError(f"{_CONTAINS} is for {_TEXT} alone, not for {path}")
    if not isinstance(operand, str) or not operand or len(operand) > MAX_TEXT:
        raise InputError(f"{_CONTAINS} needs a text of 1 to {MAX_TEXT} characters, not {_shown(operand)}")
    term = search_term(operand)
    return lambda value: term in value, [operand]


def _compare(path: str, kind: str, word: str, operand: Any) -> tuple[_Test, list[Any]]:
    if kind in ("state", "list"):
        raise InputError(f"{path} has no order; use $eq, $ne, $in or $nin instead of {word}")
    wanted = _operand(path, kind, word, operand)
    if not isinstance(wanted, (int, float, str)) or isinstance(wanted, bool):
        raise InputError(f"{word} of {path} needs a number or a text, not {_shown(operand)}")

    def test(value: Any) -> bool:
        if isinstance(value, bool) or isinstance(value, str) != isinstance(wanted, str):
            return False
        if not isinstance(value, (int, float, str)) or value == "":
            return False
        left: Any = value
        if word == "$gt":
            return bool(left > wanted)
        if word == "$gte":
            return bool(left >= wanted)
        return bool(left < wanted) if word == "$lt" else bool(left <= wanted)

    return test, [wanted]


def _regex(path: str, kind: str, operand: Any) -> _Test:
    if kind in ("number", "time"):
        raise InputError(f"{path} is no text; use $gt, $gte, $lt or $lte instead of $regex")
    if not isinstance(operand, str) or len(operand) > MAX_PATTERN:
        raise InputError(f"$regex of {path} must be a text of at most {MAX_PATTERN} characters, not {_shown(operand)}")
    try:
        search = searcher(operand)
    except PatternError as error:
        raise InputError(
            f"$regex {_shown(operand)} of {path} is no regular expression that can be searched in bounded time: {error}"
        ) from None

    spent_s = 0.0

    def test(value: Any) -> bool:
        nonlocal spent_s
        if isinstance(value, str):
            since = time.thread_time()
            found = search(value[:MAX_MATCHED])
            spent_s += time.thread_time() - since
            if spent_s > _MAX_SEARCHING_S:
                raise InputError(
                    f"$regex {_shown(operand)} of {path} takes more than {_MAX_SEARCHING_S:g} s for all runs; make it "
                    "simpler, or leave out runs by other fields"
                )
            return found
        return isinstance(value, (list, tuple)) and any(test(each) for each in value)

    return test


def _operand(path: str, kind: str, word: str, value: Any) -> Any:
    """The operand as the record has such values. None is "not there"."""
    if value is None:
        return None
    if kind == "time":
        return _time_us(path, value)
    if kind == "state":
        if not isinstance(value, str):
            raise InputError(f"{word} of state must be the name of a state, not {_shown(value)}")
        return RunState.parse(value).value
    if kind in ("text", "list"):
        if not isinstance(value, str):
            raise InputError(f"{word} of {path} must be a text, not {_shown(value)}")
        return value
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{word} of {path} must be a finite number, not {value}")
    if kind == "number":
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise InputError(f"{word} of {path} must be a number, not {_shown(value)}")
    elif not isinstance(value, (str, int, float, list, tuple)):
        raise InputError(f"{word} of {path} must be a text, a number, true, false, null or a list, not {_shown(value)}")
    return list(value) if isinstance(value, tuple) else value


def _time_us(path: str, value: Any) -> int:
    """A datetime, ISO text, or seconds since 1970, as microseconds; without a zone it is UTC, as W&B's are."""
    refused = InputError(f"{path} {_shown(value)} is no time; write it as 2030-01-31T14:30Z, or as seconds since 1970")
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise refused from None
    if isinstance(value, datetime):
        value = (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) < 1e11:
        raise refused
    return round(value * 1_000_000)


def _has(value: Any, wanted: Any) -> bool:
    """Mongo's equality: a list has each of its elements too, and what is not there is null."""
    if wanted is None:
        return not _is_there(value)
    if isinstance(value, (list, tuple)):
        return any(_is_same(each, wanted) for each in value) or _is_same(list(value), wanted)
    return _is_same(value, wanted)


def _is_same(value: Any, wanted: Any) -> bool:
    # 1 and true are equal in Python, and differ in JSON.
    return bool(value == wanted) and isinstance(value, bool) == isinstance(wanted, bool)


def _is_there(value: Any) -> bool:
    return value is not None and value != "" and value != ()


def _path(name: Any) -> str:
    """The field's own name. Raises InputError for what no run has."""
    if isinstance(name, str) and len(name) <= MAX_PATH:
        head, dot, rest = name.partition(".")
        head = _ALIASES.get(head, head)
        if head in _FIELDS and not dot:
            return head
        if head in _MAPS and rest:
            return f"{head}.{rest}"
    known = ", ".join([*_FIELDS, *(f"{head}.NAME" for head in _MAPS)])
    raise InputError(f"runs have no {_shown(name)}; there are: {known}")


def _reader(path: str) -> Callable[[Record], Any]:
    if path in _FIELDS:
        return _FIELDS[path].read
    head, _, rest = path.partition(".")
    return lambda record: _below(_MAPS[head](record), rest)


def _below(values: Any, path: str) -> Any:
    """The value under a dotted name: a key with dots in it comes first, then maps in maps; None for none."""
    if not isinstance(values, Mapping):
        return None
    if path in values:
        return values[path]
    head, dot, rest = path.partition(".")
    if dot and head in values:
        inner = values[head]
        # In W&B's filters a value of the config is `config.NAME.value`.
        return inner if rest == "value" and not isinstance(inner, Mapping) else _below(inner, rest)
    return None


def _plain(value: Any) -> Any:
    """A value that JSON does not have, as one that means the same in a filter."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise InputError(f"a filter must be of texts, numbers, lists and maps, not of {type(value).__name__}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
