"""Chooses runs of the archive for a deletion or an export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, func, select

from launch_worker.archive.schema import runs
from launch_worker.database.database import Database
from launch_worker.model.states import RunState


@dataclass(frozen=True)
class Selection:
    """The runs that meet all conditions that are given. Times are server microseconds."""

    state: RunState | None = None
    project: str = ""
    #: Runs that ended before this time, or that Redis lost before it.
    ended_before: int | None = None
    #: Runs that were created from this time on, and before that one.
    created_from: int | None = None
    created_before: int | None = None

    def condition(self) -> ColumnElement[bool]:
        c = runs.c
        wanted: list[ColumnElement[bool]] = []
        if self.state is not None:
            wanted.append(c.state == self.state.value)
        if self.project:
            wanted.append(c.project == self.project)
        if self.ended_before is not None:
            wanted.append(_over_at < self.ended_before)
        if self.created_from is not None:
            wanted.append(c.created_at >= self.created_from)
        if self.created_before is not None:
            wanted.append(c.created_at < self.created_before)
        return and_(True, *wanted)


@dataclass(frozen=True)
class Preview:
    """What a deletion would delete."""

    count: int
    by_state: dict[str, int]
    #: Creation of the oldest and the newest of the runs.
    oldest: int | None
    newest: int | None


_over_at = func.coalesce(runs.c.ended_at, runs.c.forgotten_at)
#: Condition of the runs that may be deleted: those that are over.
OVER: ColumnElement[bool] = _over_at.is_not(None)


def preview(database: Database, selection: Selection) -> Preview:
    """How many runs that are over the selection has, and which."""
    c = runs.c
    query = select(c.state, func.count(), func.min(c.created_at), func.max(c.created_at))
    with database.reading() as connection:
        found: list[Any] = list(connection.execute(query.where(OVER, selection.condition()).group_by(c.state)))
    return Preview(
        count=sum(row[1] for row in found),
        by_state={row[0]: row[1] for row in sorted(found)},
        oldest=min((row[2] for row in found), default=None),
        newest=max((row[3] for row in found), default=None),
    )
