"""Lists runs by creation time, in pages from the smallest index that fits."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import islice

from launch_worker.model.run import Record
from launch_worker.model.states import RunState
from launch_worker.store import keys
from launch_worker.store.records import Records
from launch_worker.store.redis.client import text
from launch_worker.store.redis.connection import clear_errors

#: For each kind of index (`keys.runs_by`), the values of which a run must have one.
Narrow = Mapping[str, Set[str]]
#: The condition that all runs meet.
EVERY: Narrow = {}


class Lists(Records):
    """The part of `Store` that lists and counts runs."""

    def count_runs(self, narrow: Narrow) -> int:
        """How many runs the smallest index has: exact for one kind, an upper bound for several kinds."""
        return self._smallest(narrow)[1]

    def runs(
        self,
        narrow: Narrow = EVERY,
        *,
        newest_first: bool = True,
        page: int = 100,
        begin_us: int | None = None,
        without: Set[str] = frozenset(),
    ) -> Iterator[Record]:
        """Yield the runs that have, for each kind, one of the values, by creation time, from `begin_us` on.

        `page` runs are read at a time, as they are taken; the records of those `without` are not read. A run that
        comes or goes meanwhile is listed once or not.
        """
        indexes, _ = self._smallest(narrow)
        found = (self._ids(index, newest_first=newest_first, page=page, begin_us=begin_us) for index in indexes)
        ids = heapq.merge(*found, reverse=newest_first)
        seen: set[str] = set()
        while batch := [run_id for _, run_id in islice(ids, page)]:
            fresh = [run_id for run_id in batch if run_id not in without] if without else batch
            if len(indexes) > 1:
                # A run that changes its state while the lists of several states are read is in two of them.
                fresh = [run_id for run_id in fresh if run_id not in seen]
                seen.update(fresh)
            for record in self.records(fresh):
                if all(getattr(record, kind) in values for kind, values in narrow.items()):
                    yield record

    def _smallest(self, narrow: Narrow) -> tuple[list[str], int]:
        choices = [[keys.runs_by(kind, value) for value in sorted(values)] for kind, values in narrow.items()]
        choices = choices or [[keys.RUNS]]
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            for indexes in choices:
                for index in indexes:
                    pipe.zcard(index)
            sizes = iter(pipe.execute() if any(choices) else [])
        totals = [sum(islice(sizes, len(indexes))) for indexes in choices]
        least = min(totals)
        return choices[totals.index(least)], least

    def _ids(
        self, index: str, *, newest_first: bool, page: int, begin_us: int | None = None
    ) -> Iterator[tuple[int, str]]:
        """Yield (creation time, id). Pages begin at a score, not at a rank: runs that come or go shift ranks."""
        edge, at_edge = ("+inf" if newest_first else "-inf") if begin_us is None else str(begin_us), set[str]()
        while True:
            # The runs at the edge's own instant come again.
            num = page + len(at_edge)
            with clear_errors(self.url):
                if newest_first:
                    found = self._redis.zrevrangebyscore(index, edge, "-inf", start=0, num=num, withscores=True)
                else:
                    found = self._redis.zrangebyscore(index, edge, "+inf", start=0, num=num, withscores=True)
            entries = [(int(score), text(run_id)) for run_id, score in found]
            yield from (entry for entry in entries if entry[1] not in at_edge)
            if len(entries) < num:
                return
            last = entries[-1][0]
            at_edge = {run_id for score, run_id in entries if score == last}
            edge = str(last)

    def counts(self) -> dict[RunState, int]:
        """How many runs are in each state."""
        counted = self.counts_by("state", [state.value for state in RunState])
        return {state: counted[state.value] for state in RunState}

    def counts_by(self, kind: str, values: Sequence[str]) -> dict[str, int]:
        """How many runs have each of these values of an index (`keys.runs_by`)."""
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            for value in values:
                pipe.zcard(keys.runs_by(kind, value))
            return dict(zip(values, pipe.execute(), strict=True))
