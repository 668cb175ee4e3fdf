"""Names places in a list of runs, behind which the list goes on whatever came or went meanwhile."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from functools import total_ordering
from typing import Any

from launch_worker.api.filters import Order
from launch_worker.errors import InputError
from launch_worker.model.run import Record
from launch_worker.untrusted.text import read_json


def bookmark(order: Order, record: Record) -> str:
    """A text behind which a list goes on after this run, whatever came or went meanwhile."""
    key = None if order.is_by_creation else order.key(record)
    return base64.urlsafe_b64encode(json.dumps([key, record.created_at, record.id]).encode()).decode().rstrip("=")


class Bookmark:
    """The place in a list that `bookmark` names. Raises InputError for another text."""

    def __init__(self, order: Order, text: str) -> None:
        try:
            key, created_at, run_id = read_json(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
            self._order, self._created_at = order, int(created_at)
            self._place = _sort_key(order, None if key is None else (int(key[0]), key[1]), created_at, str(run_id))
        except (ValueError, TypeError, IndexError):
            raise InputError(f"{text[:60]!r} is not where a page of this list has ended; take `next` of one") from None

    @property
    def condition(self) -> dict[str, Any]:
        """A filter that all runs behind the place fit, where the order gives one."""
        if not self._order.is_by_creation:
            return {}
        return {"created_at": {"$lte" if self._order.is_descending else "$gte": self._created_at / 1e6}}

    def is_behind(self, record: Record) -> bool:
        """Whether a run comes after the place."""
        try:
            return bool(self._place < sort_key(self._order, record))
        except TypeError:
            raise InputError("this is not where a page of this list has ended; take `next` of one") from None


@total_ordering
@dataclass(frozen=True)
class _Down:
    """A value that is sorted the other way round."""

    value: Any

    def __lt__(self, other: _Down) -> bool:
        return bool(other.value < self.value)


def sort_key(order: Order, record: Record) -> tuple[Any, ...]:
    """The place of a record in an order; what has no value is last, and equal ones are sorted by age."""
    return _sort_key(order, None if order.is_by_creation else order.key(record), record.created_at, record.id)


def _sort_key(order: Order, key: tuple[int, Any] | None, created_at: int, run_id: str) -> tuple[Any, ...]:
    age = _Down((created_at, run_id))
    if order.is_by_creation:
        return (age,) if order.is_descending else (created_at, run_id)
    if key is None:
        return True, age
    return False, _Down(key) if order.is_descending else key, age
