"""Holds as much of a run as tells people which one it is."""

from __future__ import annotations

from typing import NamedTuple


class Label(NamedTuple):
    """A run, shortly."""

    id: str
    name: str
    state: str
    project: str
    #: Id of the group of which it is a run, as people write it; '' for a run of none.
    group: str
    created_at: int
