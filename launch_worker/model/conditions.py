"""Defines a filter of runs as a tree, of which a database makes a query."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class All:
    """Holds where each part holds; without parts always."""

    parts: tuple[Condition, ...] = ()


@dataclass(frozen=True)
class AnyOf:
    """Holds where one of the parts holds."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class Not:
    """Holds where its part does not."""

    part: Condition


@dataclass(frozen=True)
class Test:
    """Holds where the value of a field passes."""

    #: Field's own name, such as `state` or `config.lr`.
    path: str
    #: $eq, $ne, $in, $nin, $gt, $gte, $lt, $lte, $exists, $regex; of a project $last: its last part; of
    #: `text` $contains.
    word: str
    #: Values that are looked for, as a record has them (None: not there); for the other words one value.
    operands: tuple[Any, ...]
    passes: Callable[[Any], bool]


Condition = All | AnyOf | Not | Test


def tests(condition: Condition) -> Iterator[Test]:
    """All tests of a filter."""
    if isinstance(condition, Test):
        yield condition
        return
    parts = (condition.part,) if isinstance(condition, Not) else condition.parts
    for part in parts:
        yield from tests(part)


def excluded(condition: Condition, path: str) -> set[Any]:
    """Values of a field that no run that fits has, as far as `$nin` says so."""
    if isinstance(condition, All):
        return set().union(*(excluded(part, path) for part in condition.parts))
    is_such = isinstance(condition, Test) and condition.path == path and condition.word == "$nin"
    return set(condition.operands) if is_such and isinstance(condition, Test) else set()


def created_until(condition: Condition) -> int | None:
    """A time after which no run that fits was created, in server microseconds; None for none."""
    if isinstance(condition, All):
        return min((at for part in condition.parts if (at := created_until(part)) is not None), default=None)
    if isinstance(condition, Test) and condition.path == "created_at" and condition.word in ("$lt", "$lte"):
        return int(condition.operands[0])
    return None


def created_from(condition: Condition) -> int:
    """A time before which no run that fits was created, in server microseconds; 0 for none."""
    if isinstance(condition, All):
        return max(map(created_from, condition.parts), default=0)
    if isinstance(condition, Test) and condition.path == "created_at" and condition.word in ("$gt", "$gte"):
        return int(condition.operands[0])
    return 0
