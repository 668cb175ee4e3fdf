"""Packs small outputs and deletes the logs of deleted runs, in a thread: a store that is away holds nothing else up."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select, update

from launch_worker.archive.leader import LeaseLostError
from launch_worker.archive.packer import Packer
from launch_worker.archive.schema import log_deletions, runs
from launch_worker.archive.trouble import Trouble
from launch_worker.database.database import Database
from launch_worker.errors import LaunchError
from launch_worker.logs.stored import StoredLogs
from launch_worker.store.store import Store

log = logging.getLogger("launch_worker.archive")

#: Seconds between two looks for work.
_EVERY_S = 2.0
#: Runs whose logs are deleted before that is noted, and the number of them from which on the store is listed at once.
_PAGE = 500
_FEW = 20
#: Seconds for which a list of the store is used.
_LISTED_S = 60.0
#: Seconds from a run's deletion to the second look for its logs; each later one comes at four times the last one's age.
_SECOND_LOOK_S = 3600.0
_LATER = 4
#: Seconds until a run is tried again whose logs could not be deleted; others come first meanwhile.
_TRY_AGAIN_S = 60.0
#: Seconds for the thread to come to an end.
_STOP_S = 3.0


class LogKeeper:
    """The part of an archive's process that works in the store of logs."""

    def __init__(
        self,
        store: Store,
        database: Database,
        writing: Callable[[], AbstractContextManager[Connection]],
        *,
        url: str,
        stopping: threading.Event,
        pack_after_s: float,
    ) -> None:
        """`writing` opens a transaction that holds the lease. `url` is LAUNCH_LOG_URL.

        `pack_after_s`: seconds after its end in which a run waits for others, to be packed with them.
        """
        self._store = store
        self._database = database
        self._writing = writing
        self._url = url
        self._stopping = stopping
        self._packer = Packer(store, database, writing, self._open, after_s=pack_after_s)
        self._trouble = Trouble("logs.wait", "logs.go_on")
        self._thread: threading.Thread | None = None
        self._opened: StoredLogs | None = None
        self._listed: set[str] | None = None
        self._listed_at = 0.0

    def start(self) -> None:
        """Start the thread, if it is not there yet."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="log-keeper", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Wait for the thread, which ends when the process is to stop; it may be cut short at any place."""
        if self._thread is not None:
            self._thread.join(_STOP_S)

    def _run(self) -> None:
        pause_s = 0.0
        while not self._stopping.wait(pause_s):
            pause_s = _EVERY_S
            try:
                while self.turn() and not self._stopping.is_set():
                    pass
                self._trouble.over()
            except LeaseLostError:
                # Another process does it, until this one leads again.
                continue
            except LaunchError as error:
                pause_s = self._trouble.pause_s(error)
            except Exception:
                log.exception("logs.failed")
                pause_s = _TRY_AGAIN_S

    def turn(self) -> bool:
        """Do the next bounded pieces of work. Returns whether there was some. Raises LaunchError.

        Whatever is cut short is found in the database, and done again.
        """
        is_busy, problem = False, None
        for work in (self._packer.pack, self._packer.tidy, self._delete_logs):
            try:
                is_busy = work() or is_busy
            except LeaseLostError:
                raise
            except LaunchError as error:
                # One object that cannot be deleted must not keep outputs in Redis.
                problem = problem or error
        if problem is not None:
            raise problem
        return is_busy

    def _open(self) -> StoredLogs:
        if self._opened is None:
            self._opened = StoredLogs(self._url)
        return self._opened

    def _delete_logs(self) -> bool:
        """Delete the logs of some runs that are deleted."""
        now, c = self._store.now_us(), log_deletions.c
        query = select(c.run_id, c.deleted_at).where(c.due_at <= now).order_by(c.due_at).limit(_PAGE)
        with self._database.reading() as connection:
            due = {row.run_id: int(row.deleted_at) for row in connection.execute(query)}
        if not due:
            self._listed = None
            return False
        with self._writing() as connection:
            again = self._there_again(connection, list(due))
        with_logs = due.keys() if len(due) <= _FEW else self._runs_with_logs()
        done: dict[str, int] = {}
        failed: dict[str, int] = {}
        try:
            for run_id, deleted_at in due.items():
                if run_id not in again:
                    failed = {run_id: now + int(_TRY_AGAIN_S * 1e6)}
                    if run_id in with_logs:
                        self._open().delete_run(run_id)
                    age = max(now - deleted_at, int(_SECOND_LOOK_S * 1e6) // _LATER)
                    done[run_id], failed = deleted_at + _LATER * age, {}
        finally:
            self._note_deleted(done | failed, due, again)
        return True

    def _runs_with_logs(self) -> set[str]:
        """The runs that have logs; those that got some in the last minute are found by their next looks."""
        if self._listed is None or time.monotonic() - self._listed_at > _LISTED_S:
            self._listed, self._listed_at = self._open().runs(), time.monotonic()
        return self._listed

    def _there_again(self, connection: Connection, run_ids: list[str]) -> set[str]:
        """Those of these ids that are a run's again, which was submitted under the same id, or came back with Redis."""
        known = select(runs.c.id).where(runs.c.id.in_(run_ids), runs.c.deleted_at.is_(None))
        return {outline.id for outline in self._store.outlines_of(run_ids)} | set(connection.execute(known).scalars())

    def _note_deleted(self, looks: dict[str, int], due: dict[str, int], again: set[str]) -> None:
        """Note the times of the next looks, unless a run was deleted once more meanwhile."""
        c = log_deletions.c
        is_same = (c.run_id == bindparam("of"), c.deleted_at == bindparam("at"))
        rows: list[dict[str, Any]] = [{"of": run_id, "at": due[run_id], "due_at": at} for run_id, at in looks.items()]
        with self._writing() as connection:
            if rows:
                connection.execute(update(log_deletions).where(*is_same), rows)
            if again:
                left = [{"of": run_id, "at": due[run_id]} for run_id in again]
                connection.execute(delete(log_deletions).where(*is_same), left)
