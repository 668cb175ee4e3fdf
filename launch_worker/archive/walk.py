"""Compares the archive with all that Redis has, a page at a time, and mends what differs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import Connection, bindparam, delete, literal, select, text, tuple_, update

from launch_worker.archive.apply import Applier
from launch_worker.archive.schema import log_deletions, position, runs
from launch_worker.model.states import RunState
from launch_worker.store.outlines import Outline
from launch_worker.store.store import Store

log = logging.getLogger("launch_worker.archive")

#: Runs that are compared in one step; a step takes some tens of milliseconds.
_PAGE = 1000
#: Seconds from a run's deletion on in which a worker that was cut off may still store its output.
_LATE_S = 90 * 86400.0
_FINAL = {state.value for state in RunState} - {RunState.PENDING.value, RunState.RUNNING.value}


class Walk:
    """One walk through all runs that Redis has, the newest first, and through those that it should have, beside them.

    A walk that was cut short is begun anew: what it has mended is only compared then.
    """

    def __init__(self, store: Store, writing: Callable[[], AbstractContextManager[Connection]], *, packs: bool) -> None:
        """`writing` opens a transaction that holds the lease.

        `packs`: a run's output is packed before the run is confirmed.
        """
        self._packs = packs
        self._store = store
        self._writing = writing
        self.began_at = store.now_us()
        self.mended = 0

    def steps(self) -> Generator[None]:
        """Do one bounded step for each value that is taken."""
        newest: int | None = None
        for page in self._store.all_run_ids(page=_PAGE):
            self._compare([run_id for _, run_id in page])
            yield
            oldest = page[-1][0]
            yield from self._look_for_missing({run_id for _, run_id in page}, oldest, newest)
            newest = oldest
        yield from self._look_for_missing(set(), None, newest)
        left: int | None = 0
        while left is not None:
            left = self._confirm(left)
            yield
        with self._writing() as connection:
            if self.mended > _PAGE and connection.dialect.name != "sqlite":
                # PostgreSQL counts new rows a minute later by itself; until then it reads all of them for a page.
                connection.execute(text("ANALYZE runs"))
            connection.execute(
                update(position).values(
                    walk_began_at=self.began_at, walk_ended_at=self._store.now_us(), walk_mended=self.mended
                )
            )
            is_made_up = position.c.missed_at <= self.began_at
            connection.execute(update(position).where(is_made_up).values(missed_at=None))
            old = log_deletions.c.deleted_at < self.began_at - int(_LATE_S * 1e6)
            connection.execute(delete(log_deletions).where(old))

    def _compare(self, page: list[str]) -> None:
        with self._writing() as connection:
            known = _rows(connection, page)
            new = [run_id for run_id in page if run_id not in known]
            outlines = self._store.outlines_of([run_id for run_id in page if run_id in known])
            changed = [outline.id for outline in outlines if _differs(outline, known[outline.id])]
            applier = Applier(connection)
            confirmed = read_whole(applier, self._store, new, is_first=True)
            confirmed += read_whole(applier, self._store, changed)
        self.mended += len(new) + len(changed)
        if not self._packs:
            self._store.confirm_archived(confirmed)

    def _confirm(self, skip: int) -> int | None:
        """Confirm ended runs again: the process may have died between what it wrote and what it told Redis.

        `skip`: how many were looked at and must wait. Returns that number for the next call; None after the last page.
        """
        waiting = self._store.unarchived(skip=skip, limit=_PAGE)
        if not waiting:
            return None
        with self._writing() as connection:
            known = _rows(connection, [run_id for run_id, _ in waiting])
        sealed = [(run_id, at) for run_id, at in waiting if run_id in known and self._is_whole(known[run_id], at)]
        return skip + len(waiting) - self._store.confirm_archived(sealed)

    def _is_whole(self, row: Any, ended_at: int) -> bool:
        return bool(row.sealed == ended_at and (not self._packs or row.packed == ended_at))

    def _look_for_missing(self, there: set[str], oldest: int | None, newest: int | None) -> Generator[None]:
        """Note which runs Redis has no more, of those that were created from `oldest` to `newest`; `there` are not.

        A step is taken only where there may be such a run.
        """
        c = runs.c
        after = tuple_(c.created_at, c.id) > tuple_(literal(-1 if oldest is None else oldest), literal(""))
        while True:
            query = select(c.id, c.created_at, c.ended_at).where(c.forgotten_at.is_(None), after)
            if newest is not None:
                query = query.where(c.created_at <= newest)
            with self._writing() as connection:
                rows = connection.execute(query.order_by(c.created_at, c.id).limit(2 * _PAGE)).all()
                doubtful = [row for row in rows if row.id not in there]
                known = {outline.id for outline in self._store.outlines_of([row.id for row in doubtful])}
                missing = [row for row in doubtful if row.id not in known]
                if missing:
                    self._forget(connection, missing)
            if doubtful:
                yield
            if len(rows) < 2 * _PAGE:
                return
            after = tuple_(c.created_at, c.id) > tuple_(literal(rows[-1].created_at), literal(rows[-1].id))

    def _forget(self, connection: Connection, missing: Sequence[Any]) -> None:
        deleted = self._store.deletions([row.id for row in missing])
        Applier(connection).delete_content(deleted)
        now = self._store.now_us()
        gone = [{"of": row.id, "forgotten_at": now} for row in missing if row.id not in deleted]
        if gone:
            connection.execute(update(runs).where(runs.c.id == bindparam("of")), gone)
        lost = [row.id for row in missing if row.id not in deleted and row.ended_at is None]
        if lost:
            log.warning("archive.lost count=%s first=%s: Redis lost these runs before they ended", len(lost), lost[0])
        self.mended += len(missing)


def read_whole(
    applier: Applier, store: Store, run_ids: Sequence[str], *, is_first: bool = False
) -> list[tuple[str, int]]:
    """Read these runs from Redis and write them anew. Returns each that has ended, with its `ended_at`."""
    ended: list[tuple[str, int]] = []
    for start in range(0, len(run_ids), _PAGE):
        ended += applier.whole_runs(store.whole_runs(run_ids[start : start + _PAGE]), is_first=is_first)
    return ended


def _rows(connection: Connection, run_ids: list[str]) -> dict[str, Any]:
    c = runs.c
    columns = (c.id, c.seq, c.state, c.attempt, c.ended_at, c.sealed, c.packed, c.forgotten_at, c.deleted_at)
    return {row.id: row for row in connection.execute(select(*columns).where(c.id.in_(run_ids)))}


def _differs(outline: Outline, row: Any) -> bool:
    ended_at = outline.ended_at or None if outline.state in _FINAL else None
    now = (outline.state, outline.attempt, outline.lines, ended_at)
    return row.forgotten_at is not None or now != (row.state, row.attempt, row.seq, row.ended_at)
