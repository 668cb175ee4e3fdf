"""Deletes runs that are over from the archive, and from Redis where it still has them."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, insert, select, update

from launch_worker.archive.apply import Applier
from launch_worker.archive.schema import leader, runs
from launch_worker.archive.selection import OVER, Selection
from launch_worker.database.audit import audit_lines
from launch_worker.database.database import Database
from launch_worker.errors import UnknownRunError
from launch_worker.store.store import Store

#: Runs in one transaction, which keeps the archive's process waiting.
_PAGE = 100


def delete_runs(database: Database, store: Store, selection: Selection, *, who: str, keep_s: float) -> Iterator[int]:
    """Delete the runs of a selection that are over, a page at a time; yields the number of each page.

    In between, it may be cut short and done again. A run that runs again meanwhile stays. The archive's process deletes
    their logs.
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
            gone, untold = [], []
            for row in page:
                try:
                    if row.forgotten_at is not None:
                        untold.append(row.id)
                    elif not store.delete(row.id, who=who, keep_s=keep_s):
                        continue
                except UnknownRunError:
                    untold.append(row.id)
                gone.append(row.id)
            now = store.now_us()
            Applier(connection).delete_rows(gone, at=now)
            # Of those that Redis had the change feed tells.
            _note(connection, untold, who=who, at=now)
        yield len(gone)


def _hold_off(connection: Connection) -> None:
    """Have the archive's process wait for the end of this transaction: it must not write the same runs anew."""
    connection.execute(update(leader).values(holder=leader.c.holder))


def _note(connection: Connection, run_ids: list[str], *, who: str, at: int) -> None:
    line = {"at": at, "actor": who, "what": "deleted", "kind": "run"}
    if run_ids:
        lines = [line | {"change_id": f"deleted {run_id} {at}", "target": run_id} for run_id in run_ids]
        connection.execute(insert(audit_lines), lines)
