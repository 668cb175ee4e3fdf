"""Says what the counters of a queue mean, which the scripts keep: runs that were submitted, waited, ran and ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from launch_worker.model.states import RunState

#: Queues that have counters of their own without an admin's doing (MOST_COUNTED in lua/words/counts.lua).
MOST_COUNTED = 70
#: Name that stands for all queues without counters of their own. No queue can have it.
OTHER_QUEUES = "_other"
#: Name that stands for deleted queues.
DELETED_QUEUES = "_deleted"
#: Upper bounds of the histograms' buckets, in seconds (BOUNDS in lua/words/counts.lua).
BOUNDS = ("0.01", "0.1", "0.5", "1", "5", "10", "30", "60", "300", "900", "3600", "14400", "43200", "86400", "604800")
#: Name of the last bucket, which has no upper bound.
NO_BOUND = "+Inf"


@dataclass(frozen=True)
class Counts:
    """Counters of a queue, or of all queues together, since they began. They never fall."""

    values: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def sum_of(cls, several: Iterable[Counts]) -> Counts:
        total: Counter[str] = Counter()
        for one in several:
            total.update(one.values)
        return cls(total)

    def submitted(self) -> int:
        return self.values.get("submitted", 0)

    def refused(self) -> int:
        """Submissions that were refused; counted for all queues together."""
        return self.values.get("refused", 0)

    def waits(self) -> dict[str, int]:
        """Claims by the bucket of the time that the run had waited, from when it was ready."""
        return {bound: self.values.get(f"wait:{bound}", 0) for bound in (*BOUNDS, NO_BOUND)}

    def waited_s(self) -> float:
        return self.values.get("wait:us", 0) / 1e6

    def attempts(self, state: RunState) -> dict[str, int]:
        """Attempts that ended in a state, by the bucket of the time since their claim."""
        return {bound: self.values.get(f"end:{state.value}:{bound}", 0) for bound in (*BOUNDS, NO_BOUND)}

    def ran_s(self, state: RunState) -> float:
        return self.values.get(f"ran:{state.value}", 0) / 1e6

    def ended(self, state: RunState) -> int:
        """Runs that ended in a state; one that was tried again in the same step did not."""
        ends = sum(self.attempts(state).values()) + self.values.get(f"end:{state.value}:-", 0)
        return ends - self.retried(state)

    def retried(self, state: RunState) -> int:
        """Attempts that ended in a state, and after which the run was tried again without a person's doing."""
        return self.values.get(f"retry:{state.value}", 0)

    def reopened(self, state: RunState) -> int:
        """Runs that left a final state: a person had them tried again, or their worker proved alive."""
        return self.values.get(f"left:{state.value}", 0) - self.retried(state)
