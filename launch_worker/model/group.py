"""Describes a group: the runs of an array, a bulk submission or a sweep, counted by state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from launch_worker.model.states import RunState
from launch_worker.model.units import isoformat

#: Kind of runs that ended without an attempt, or that their submitter announced and never made.
NEVER = "Never"
#: Kinds of runs that a group counts, in the order in which people see them.
KINDS = (*(state.value for state in RunState), NEVER)


@dataclass(frozen=True)
class GroupRecord:
    """A group as Redis has it; a run that was deleted stays counted as it ended."""

    #: Id as people write it.
    id: str
    #: One of array, bulk, sweep.
    kind: str
    #: Id in names of Redis: without the letter of an array.
    key: str
    #: Number of runs that its submitter announced, or that a sweep has made by now.
    size: int
    #: Number of its runs of each kind; those that are not made yet are Pending.
    counts: Mapping[str, int]
    #: Number of runs that its submitter announced and never made, because it died or gave up.
    missing: int = 0
    #: Number of its runs that are deleted.
    gone: int = 0
    name: str = ""
    queue: str = ""
    #: Project of its runs; of the first one's, where they are of several.
    project: str = ""
    is_mixed: bool = False
    author: str = ""
    created_at: int = 0
    ended_at: int | None = None
    #: Number of failed runs for which the rest was not started (`--max-fails`); 0 where it was.
    halted: int = 0
    #: Whether more runs may be added: its submitter is at it, or its sweep goes on.
    is_open: bool = False

    @property
    def is_over(self) -> bool:
        """Whether all its runs have ended, and no further run is added."""
        return not self.is_open and not self.counts["Pending"] and not self.counts["Running"]

    @property
    def end(self) -> str:
        """How it ended, as a run that waits for it sees it; '' while it is not over.

        Finished: all its runs are. Failed: a run of it ran and is not Finished. Never: some never ran.
        """
        if not self.is_over:
            return ""
        if self.size and self.counts["Finished"] >= self.size:
            return "Finished"
        return NEVER if self.counts["Finished"] + self.counts[NEVER] >= self.size else "Failed"

    def as_json(self) -> dict[str, Any]:
        """The object of `show --json`."""
        return {
            "id": self.id,
            "kind": self.kind,
            "name": self.name,
            "queue": self.queue,
            "project": self.project,
            "author": self.author,
            "size": self.size,
            "counts": dict(self.counts),
            "missing": self.missing,
            "deleted": self.gone,
            "halted": self.halted,
            "is_open": self.is_open,
            "is_over": self.is_over,
            "end": self.end,
            "created_at": isoformat(self.created_at or None),
            "ended_at": isoformat(self.ended_at),
        }
