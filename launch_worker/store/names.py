"""Finds runs by their names, by the beginnings of their ids and by their submitters, among the newest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from launch_worker.model.checks import shown_group
from launch_worker.model.label import Label
from launch_worker.store import keys
from launch_worker.store.lists import Lists
from launch_worker.store.redis.client import text
from launch_worker.store.redis.connection import clear_errors
from launch_worker.untrusted.text import read_map, read_whole

#: Runs of which one field is read in one round trip.
_PAGE = 2000
_FIELDS = ("name", "state", "project", "array", "sweep", "created_at")


class Names(Lists):
    """The part of `Store` that finds runs. Redis has no index of names: it looks at so many of the newest runs."""

    def labels_by(self, fits: Callable[[str, str], bool], *, most: int) -> tuple[list[Label], bool]:
        """Runs whose id and name fit, the newest first, among the newest `most`; and whether there are older ones."""
        ids = self._ids(keys.RUNS, newest_first=True, page=_PAGE)
        found: list[str] = []
        looked = 0
        while looked < most and (page := [run_id for _, run_id in islice(ids, min(_PAGE, most - looked))]):
            looked += len(page)
            found += [run_id for run_id, (name,) in self._fields(page, "name") if fits(run_id, name)]
        is_cut = looked == most and next(ids, None) is not None
        return [
            Label(run_id, name, state, project, sweep or shown_group(array), read_whole(at) or 0)
            for start in range(0, len(found), _PAGE)
            for run_id, values in self._fields(found[start : start + _PAGE], *_FIELDS)
            for name, state, project, array, sweep, at in [values]
            if state
        ], is_cut

    def newest_by(self, *, author: str, user: str, most: int) -> str:
        """The id of the newest run of this user or, for '', author that no sweep made, among the newest `most`."""
        ids = self._ids(keys.RUNS, newest_first=True, page=100)
        for _ in range(0, most, 100):
            page = [run_id for _, run_id in islice(ids, 100)]
            for run_id, (sweep, whose, spec) in self._fields(page, "sweep", "user", "" if user else "spec"):
                is_mine = whose == user if user else str(read_map(spec).get("author") or "") == author
                if is_mine and not sweep:
                    return run_id
            if len(page) < 100:
                break
        return ""

    def _fields(self, run_ids: Sequence[str], *fields: str) -> Iterator[tuple[str, list[str]]]:
        """Each run with these fields of its record; of one that is gone or damaged they are empty."""
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            for run_id in run_ids:
                pipe.hmget(keys.run(run_id), *fields)
            answers: list[Any] = pipe.execute(raise_on_error=False) if run_ids else []
        for run_id, values in zip(run_ids, answers, strict=True):
            found = values if isinstance(values, list) else [None] * len(fields)
            yield run_id, [text(value or b"") for value in found]
