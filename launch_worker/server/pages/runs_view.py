"""Reads what list of runs an address asks for, and writes the addresses of lists beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from launch_worker.api.filters import NEWEST_FIRST, Filter, Order, parse_filter, parse_order
from launch_worker.errors import InputError
from launch_worker.ids import GROUP_ID
from launch_worker.model.states import RunState
from launch_worker.model.units import since_ms

#: Parameters with several values, one of which a run must have: the field of a filter by each.
CHOICES = {"state": "state", "queue": "queue", "project": "project", "tag": "tags", "author": "author"}
#: Parameters with one value.
_SINGLE = ("q", "group", "since", "mine", "each", "sort")
#: Values of one parameter, characters of a value, and words of a search at most.
_MOST_VALUES, _MOST_TEXT, _MOST_WORDS = 100, 300, 10
#: The beginning of an id, long enough that few words of other texts look like one.
_ID_PART = re.compile(r"[0-9][0-9a-hjkmnp-tv-z]{5,14}")


@dataclass(frozen=True)
class View:
    """One list of runs: which ones, in which order, and whether groups are folded."""

    #: Values of each parameter that is given.
    given: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, str]]) -> View:
        """Read the parameters of an address; those that are not of a list are left out."""
        given: dict[str, tuple[str, ...]] = {}
        for name, value in pairs:
            if not value or not (name in CHOICES or name in _SINGLE):
                continue
            if len(value) > _MOST_TEXT or len(given.get(name, ())) >= _MOST_VALUES:
                raise InputError(
                    f"the address of this list is too long: {name} may have {_MOST_VALUES} values, each of at most "
                    f"{_MOST_TEXT} characters"
                )
            before = given.get(name, ()) if name in CHOICES else ()
            given[name] = before if value in before else (*before, value)
        for name in CHOICES:
            if name in given:
                given[name] = tuple(sorted(given[name]))
        if "state" in given:
            given["state"] = tuple(RunState.parse(value).value for value in given["state"])
        return cls(given)

    def one(self, name: str) -> str:
        """The value of a parameter that has one; '' where it is not given."""
        return self.given.get(name, ("",))[0]

    @property
    def order(self) -> Order:
        return parse_order(self.one("sort") or NEWEST_FIRST)

    @property
    def is_folded(self) -> bool:
        """Whether a group is one row."""
        return not self.one("each") and not self.one("group")

    @property
    def is_filtered(self) -> bool:
        return any(name not in ("sort", "each") for name in self.given)

    def key(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """The same list, as a key."""
        return tuple(sorted(self.given.items()))

    def wanted(self, person: str, now_ms: int, *, without: Sequence[str] = ()) -> dict[str, Any]:
        """The filter of the list for a person, as `parse_filter` takes it, without what these parameters say."""
        parts: list[dict[str, Any]] = [
            {field: {"$in": list(self.given[name])}}
            for name, field in CHOICES.items()
            if name in self.given and name not in without
        ]
        parts += [_search(word) for word in self.one("q").split()[:_MOST_WORDS]]
        if group := self.one("group"):
            parts.append({"group": group})
        if since := self.one("since"):
            parts.append({"created_at": {"$gte": since_ms(since, now_ms, what="since") / 1000}})
        if self.one("mine"):
            # What came through Redis has only its author, NAME@HOST.
            at_host = {"$gte": f"{person}@", "$lt": f"{person}{chr(ord('@') + 1)}"}
            parts.append({"$or": [{"user": person}, {"user": "", "author": at_host}]})
        return {"$and": parts} if parts else {}

    def filter(self, person: str, now_ms: int) -> Filter:
        return parse_filter(self.wanted(person, now_ms))

    def pairs(self, **changes: Sequence[str] | str) -> list[tuple[str, str]]:
        """The parameters with some changed; an empty value takes one out."""
        given: dict[str, Sequence[str]] = dict(self.given)
        for name, values in changes.items():
            given[name] = ([values] if values else []) if isinstance(values, str) else values
        return [(name, value) for name in sorted(given) for value in given[name]]

    def url(self, path: str = "/runs", **changes: Sequence[str] | str) -> str:
        """The address of the list with some parameters changed."""
        query = urlencode(self.pairs(**changes))
        return f"{path}?{query}" if query else path

    def toggled(self, name: str, value: str) -> str:
        """The address of the list with one more value of a parameter, or without it."""
        chosen = self.given.get(name, ())
        rest = tuple(one for one in chosen if one != value)
        changed: dict[str, Any] = {name: rest if value in chosen else (*chosen, value)}
        return self.url(**changed)


def _search(word: str) -> dict[str, Any]:
    """The filter for a word that is in a name, tag, command, config or reason, or begins an id."""
    if GROUP_ID.fullmatch(word):
        return {"$or": [{"text": {"$contains": word}}, {"group": word}]}
    if _ID_PART.fullmatch(word):
        return {"$or": [{"text": {"$contains": word}}, {"id": {"$gte": word, "$lt": f"{word}~"}}]}
    return {"text": {"$contains": word}}
