"""Deletes runs that are over from the archive, and from Redis where it still has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sqlalchemy import Connection, select, update

from launch_worker.archive.apply import Applier
from launch_worker.archive.database import Database
from launch_worker.archive.schema import leader, runs
from launch_worker.archive.selection import OVER, Selection
from launch_worker.errors import UnknownRunError
from launch_worker.store.store import Store

#: Runs in one transaction, which keeps the archive's process waiting.
_PAGE = 100


def delete_runs(
    database: Database,
    store: Store,
    selection: Selection,
    *,
    who: str,
    keep_s: float,
    delete_log: Callable[[str], None] | None = None,
) -> Iterator[int]:
    """Delete the runs of a selection that are over, a page at a time; yields the number of each page.

    In between, it may be cut short and done again. A run that runs again meanwhile stays. `delete_log` deletes the
    whole log of a run, before the archive forgets that there was one.
    """
    c = runs.c
    after = 0
    while True:
        with database.writing() as connection:
            _hold_off(connection)
            query = select(c.number, c.id, c.forgotten_at).where(OVER, selection.condition(), c.number > after)
            page = connection.execute(query.order_by(c.number).limit(_PAGE)).all()
            if not page:
                return
            after = page[-1].number
            gone = [
                row.id
                for row in page
                if row.forgotten_at is not None or _delete_in_redis(store, row.id, who=who, keep_s=keep_s)
            ]
            if delete_log is not None:
                for run_id in gone:
                    delete_log(run_id)
            Applier(connection).delete_rows(gone)
        yield len(gone)


def _hold_off(connection: Connection) -> None:
    """Have the archive's process wait for the end of this transaction: it must not write the same runs anew."""
    connection.execute(update(leader).values(holder=leader.c.holder))


def _delete_in_redis(store: Store, run_id: str, *, who: str, keep_s: float) -> bool:
    try:
        return store.delete(run_id, who=who, keep_s=keep_s)
    except UnknownRunError:
        return True
