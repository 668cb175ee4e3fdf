"""Single runs and lists of them: pages through the smallest index, deletion, the files and metrics kept with a run."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple

from launch_worker.errors import InputError
from launch_worker.model.run import Record
from launch_worker.model.units import isoformat
from launch_worker.store import keys
from launch_worker.store.records import Reader, text
from launch_worker.store.redis.connection import clear_errors
from launch_worker.untrusted.text import read_map

#: Also a file's name on the machine of who fetches it: no slash, nothing hidden, no option.
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+=-]{0,199}")
MAX_FILE_BYTES = 1 << 20
MAX_FILES = 64
#: Of all files of one run.
MAX_FILES_BYTES = 8 << 20

#: For each kind of index the values of which a run must have one.
Narrow = Mapping[str, frozenset[str]]


class SavedFile(NamedTuple):
    """A file that is kept with a run."""

    name: str
    size: int
    #: Server time in microseconds.
    saved_at: int

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "size": self.size, "saved_at": isoformat(self.saved_at)}


class ItemStore(Reader):
    """A part of `Store`."""

    # -- lists -----------------------------------------------------------------------------------------------------

    def count_runs(self, narrow: Narrow) -> int:
        """How many runs the smallest of these indexes has: exact for one kind, else the most that there can be."""
        return self._smallest(narrow)[1]

    def runs_in(self, narrow: Narrow, *, newest_first: bool, page: int) -> Iterator[Record]:
        """Runs by creation time from the smallest index; whoever asks filters them by the others.

        Read by `page` runs as they are taken. Those that come or go meanwhile are shown or not, never twice.
        """
        indexes, _ = self._smallest(narrow)
        ids = heapq.merge(
            *(self._ids(index, newest_first=newest_first, page=page) for index in indexes), reverse=newest_first
        )
        seen: set[str] = set()
        while batch := [run_id for _, run_id in islice(ids, page)]:
            # Of several states: a run that goes from one to another while it is looked for.
            fresh = [run_id for run_id in batch if run_id not in seen] if len(indexes) > 1 else batch
            if len(indexes) > 1:
                seen.update(fresh)
            yield from self._records(fresh)

    def records(self, run_ids: Sequence[str]) -> list[Record]:
        """The records of these runs, in this order, without those that are gone."""
        return self._records(run_ids)

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

    def _ids(self, index: str, *, newest_first: bool, page: int) -> Iterator[tuple[int, str]]:
        """(creation time, id). By score and not by rank: runs that come or go meanwhile shift ranks."""
        edge, at_edge = ("+inf" if newest_first else "-inf"), set[str]()
        while True:
            # Those of the last instant that were taken come again.
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

    # -- deletion --------------------------------------------------------------------------------------------------

    def delete(self, run_id: str, *, who: str, keep_s: float) -> bool:
        """Delete a run that does not run, with all that is kept of it; a Pending one is Killed first. False: it runs.

        For `keep_s` a look-up says who deleted it. Raises UnknownRunError. Repeating it is harmless.
        """
        self.check_id(run_id)
        word = "again"
        while word == "again":
            word = text(self._call("delete", run_id, f"deleted by {who}", who, round(keep_s * 1e6)))
        if word == "unknown":
            raise self.unknown(run_id)
        return word == "deleted"

    # -- files and metrics -------------------------------------------------------------------------------------------

    def save_file(self, run_id: str, name: str, data: bytes) -> bool:
        """Keep a file with a run, in whatever state; one of that name is replaced. False when the run has too many.

        Raises InputError for a name that could leave a folder and for more than 1 MiB, UnknownRunError.
        """
        if not FILE_NAME.fullmatch(name):
            raise InputError(f"{name[:60]!r} is no name for a file; use letters, digits and . _ @ + = -, at most 200")
        if len(data) > MAX_FILE_BYTES:
            raise InputError(f"file {name!r} has {len(data):,} bytes; at most {MAX_FILE_BYTES:,} are kept with a run")
        word = text(self._call("save_file", run_id, name, data, MAX_FILES, MAX_FILES_BYTES))
        if word == "unknown":
            raise self.unknown(run_id)
        return word == "kept"

    def read_file(self, run_id: str, name: str) -> bytes | None:
        """A file that is kept with a run; None when there is none of that name."""
        with clear_errors(self.url):
            data: bytes | None = self._redis.hget(keys.files(run_id), name)
        return data

    def metrics(self, run_id: str) -> list[dict[str, Any]]:
        """The newest rows of metrics that the job told, the oldest first."""
        with clear_errors(self.url):
            lines = self._redis.lrange(keys.metrics(run_id), 0, -1)
        return [row for line in lines if (row := read_map(line))]


def saved_files(record: Record) -> list[SavedFile]:
    """The files that are kept with a run, by name, from its record."""
    found = []
    for name, entry in sorted(read_map(record.files).items()):
        # A damaged entry is left out.
        with suppress(AttributeError, OverflowError, TypeError, ValueError):
            found.append(SavedFile(name, int(entry.get("size")), int(entry.get("at"))))
    return found
