"""Shows a list of runs to Python: it is read page by page, as it is taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import overload

from launch_worker.api.connection import Connection
from launch_worker.api.filters import Filter, Order
from launch_worker.api.run import Run
from launch_worker.errors import InputError
from launch_worker.model.run import Record

MAX_PER_PAGE = 1000
#: Fields by which runs are counted.
COUNTED = ("state", "queue", "project", "author", "user", "name", "tag")


class Runs(Sequence[Run]):
    """W&B's `Runs`: the runs that fit a filter, in an order, read page by page as they are taken.

    Each is a snapshot of when its page was read, and is read once. `len()` asks an index where that decides the filter
    (no filter, or one field of state, queue, project, sweep), else it reads all; it counts what is there then, so it
    can differ from what an iteration finds while runs come and go. By creation time runs come in the order of the
    index; for every other order all that fit are looked at first. A negative index and an open slice read all.
    Where there is an archive, it is asked, and what is newer in Redis is taken from there.
    """

    def __init__(self, api: Connection, wanted: Filter, order: Order, *, per_page: int) -> None:
        self._api = api
        self._listing = api.transport.listing(wanted, order, per_page=per_page)
        self.per_page = per_page
        self._taken: list[Run] = []
        self._more: Iterator[Record] | None = None
        self._is_complete = False

    def __repr__(self) -> str:
        return f"<Runs, {len(self._taken)} of them read>"

    def __len__(self) -> int:
        counted = None if self._is_complete else self._listing.count()
        if counted is not None:
            return counted
        self._take(None)
        return len(self._taken)

    def __bool__(self) -> bool:
        self._take(1)
        return bool(self._taken)

    def __iter__(self) -> Iterator[Run]:
        at = 0
        while True:
            self._take(at + 1)
            if at >= len(self._taken):
                return
            yield self._taken[at]
            at += 1

    @overload
    def __getitem__(self, index: int) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> list[Run]: ...
    def __getitem__(self, index: int | slice) -> Run | list[Run]:
        if isinstance(index, slice):
            start, stop = index.start or 0, index.stop
            is_bounded = stop is not None and start >= 0 and stop >= 0 and (index.step or 1) > 0
            self._take(stop if is_bounded else None)
            return self._taken[index]
        self._take(index + 1 if index >= 0 else None)
        if not -len(self._taken) <= index < len(self._taken):
            raise IndexError(f"there are only {len(self._taken)} such runs")
        return self._taken[index]

    def counts(self, by: str | Sequence[str]) -> dict[tuple[str, ...], int]:
        """How many runs have which values of one or more of `COUNTED`, the most frequent values first.

        `counts(["state", "queue"])` is for instance `{("Finished", "gpu"): 7}`. With `tag` a run counts once for each
        of its tags. Without an archive runs are counted by state or by queue alone; all else raises InputError.
        """
        counted = self._listing.counts(check_counted([by] if isinstance(by, str) else by))
        return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))

    @property
    def notices(self) -> list[str]:
        """Sentences about what was read so far: that the archive lags, or could not be asked."""
        return self._listing.notices

    def update(self) -> None:
        """Drop all runs read: the next access reads anew."""
        self._taken, self._more, self._is_complete = [], None, False

    def _take(self, count: int | None) -> None:
        """Read until this number of runs is known, or all are."""
        if self._is_complete or (count is not None and len(self._taken) >= count):
            return
        if self._more is None:
            self._more = self._listing.records()
        missing = None if count is None else count - len(self._taken)
        found = [Run(self._api, record.id, record=record, is_snapshot=True) for record in islice(self._more, missing)]
        self._taken += found
        self._is_complete = missing is None or len(found) < missing


def check_counted(by: Sequence[str]) -> list[str]:
    """The fields, each once. Raises InputError unless runs can be counted by them."""
    fields = list(dict.fromkeys(by))
    for field in fields:
        if field not in COUNTED:
            raise InputError(f"runs are counted by {', '.join(COUNTED)}, and not by {field!r:.40}")
    if not fields:
        raise InputError(f"name what runs are counted by, one or more of: {', '.join(COUNTED)}")
    return fields
