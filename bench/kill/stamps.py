"""What the jobs wrote down themselves: the only truth here about what was executed. Times are seconds since boot."""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from pathlib import Path

#: Seconds around a stamp in which its process lives; jobs stamp every 0.2 s.
NEAR_S = 0.6


@dataclass
class Execution:
    """One process of a job: the job itself, or the child that it left behind."""

    pid: int
    ticks: list[float] = field(default_factory=list)
    #: It came to its own end; None where it was ended or goes on.
    ended_at: float | None = None
    is_child: bool = False

    @property
    def first(self) -> float:
        return self.ticks[0]

    @property
    def last(self) -> float:
        return self.ticks[-1]

    def lives_at(self, at: float) -> bool:
        """Whether it stamped near that time; a frozen one does not."""
        place = bisect.bisect_left(self.ticks, at)
        return any(abs(at - tick) <= NEAR_S for tick in self.ticks[max(0, place - 1) : place + 1])

    def overlaps(self, other: Execution) -> bool:
        """Whether the two worked at the same time: at two stamps at least of this one."""
        return sum(other.lives_at(tick) for tick in self.ticks if other.first < tick < other.last) >= 2


def read(path: Path) -> list[Execution]:
    """The processes of one job, in order of their beginnings; none where it never began."""
    found: dict[int, Execution] = {}
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        word, ns, pid, *_ = line.split()
        at = int(ns) / 1e9
        execution = found.setdefault(int(pid), Execution(int(pid), is_child=word == "child"))
        execution.ticks.append(at)
        if word == "end":
            execution.ended_at = at
    return list(found.values())
