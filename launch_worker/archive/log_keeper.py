"""Packs small outputs, and deletes logs and kept files of deleted runs, in a thread that holds nothing else up."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, bindparam, delete, select, update

from launch_worker.archive.leader import LeaseLostError
from launch_worker.archive.packer import Packer
from launch_worker.archive.schema import log_deletions, runs
from launch_worker.archive.trouble import Trouble
from launch_worker.database.database import Database
from launch_worker.errors import DamagedError, LaunchError
from launch_worker.ids import RUN_ID
from launch_worker.logs.stored import StoredLogs
from launch_worker.outputs.garbage import collect, is_due
from launch_worker.outputs.stored import StoredOutputs
from launch_worker.store.store import Store

log = logging.getLogger("launch_worker.archive")

Stored = TypeVar("Stored", bound=StoredLogs | StoredOutputs)

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
#: Seconds between two looks whether garbage is to be collected.
_COLLECT_LOOK_S = 3600.0
#: Seconds for the thread to come to an end.
_STOP_S = 3.0


class _Place(Generic[Stored]):
    """A store from which what belongs to deleted runs is deleted."""

    def __init__(self, make: Callable[[], Stored]) -> None:
        self._make = make
        self._opened: Stored | None = None
        self._listed: set[str] | None = None
        self._listed_at = 0.0

    def open(self) -> Stored:
        if self._opened is None:
            self._opened = self._make()
        return self._opened

    def delete_run(self, run_id: str, due: Collection[str]) -> None:
        """Delete what is stored of a run, one of those that are due; many of them cost one list of the store."""
        # A stranger in Redis may have told of a run that is called as a folder above.
        if RUN_ID.fullmatch(run_id) and run_id in (due if len(due) <= _FEW else self._runs()):
            self.open().delete_run(run_id)

    def forget_list(self) -> None:
        self._listed = None

    def _runs(self) -> set[str]:
        """The runs in the store; those that got something in the last minute are found by their next looks."""
        if self._listed is None or time.monotonic() - self._listed_at > _LISTED_S:
            self._listed, self._listed_at = self.open().runs(), time.monotonic()
        return self._listed


class LogKeeper:
    """The part of an archive's process that works in the stores of logs and outputs."""

    def __init__(
        self,
        store: Store,
        database: Database,
        writing: Callable[[], AbstractContextManager[Connection]],
        *,
        url: str,
        output_url: str = "",
        stopping: threading.Event,
        pack_after_s: float,
    ) -> None:
        """`writing` opens a transaction that holds the lease. `url` is LAUNCH_LOG_URL, `output_url` LAUNCH_OUTPUT_URL.

        `pack_after_s`: seconds after its end in which a run waits for others, to be packed with them.
        """
        self._store = store
        self._database = database
        self._writing = writing
        self._url = url
        self._logs = _Place(lambda: StoredLogs(url))
        self._outputs = _Place(lambda: StoredOutputs(output_url))
        self._places = tuple(place for place, at in ((self._logs, url), (self._outputs, output_url)) if at)
        self._stopping = stopping
        self._packer = Packer(store, database, writing, self._logs.open, after_s=pack_after_s)
        self._trouble = Trouble("logs.wait", "logs.go_on")
        self._thread: threading.Thread | None = None
        self._collector: threading.Thread | None = None
        self._collect_at = 0.0

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
        packs = (self._packer.pack, self._packer.tidy) if self._url else ()
        for work in (*packs, self._delete_stored, self._collect):
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

    def _delete_stored(self) -> bool:
        """Delete what is stored of some runs that are deleted."""
        now, c = self._store.now_us(), log_deletions.c
        query = select(c.run_id, c.deleted_at).where(c.due_at <= now).order_by(c.due_at).limit(_PAGE)
        with self._database.reading() as connection:
            due = {row.run_id: int(row.deleted_at) for row in connection.execute(query)}
        if not due:
            for place in self._places:
                place.forget_list()
            return False
        with self._writing() as connection:
            again = self._there_again(connection, list(due))
        done: dict[str, int] = {}
        failed: dict[str, int] = {}
        try:
            for run_id, deleted_at in due.items():
                if run_id not in again:
                    failed = {run_id: now + int(_TRY_AGAIN_S * 1e6)}
                    self._delete_run(run_id, due)
                    age = max(now - deleted_at, int(_SECOND_LOOK_S * 1e6) // _LATER)
                    done[run_id], failed = deleted_at + _LATER * age, {}
        finally:
            self._note_deleted(done | failed, due, again)
        return True

    def _delete_run(self, run_id: str, due: Collection[str]) -> None:
        """Delete a run from each store: one that is away keeps nothing in another one."""
        problem = None
        for place in self._places:
            try:
                place.delete_run(run_id, due)
            except LaunchError as error:
                problem = problem or error
        if problem is not None:
            raise problem

    def _collect(self) -> bool:
        """Begin to collect the content that no outputs name any more, in a thread of its own, if that is due."""
        is_busy = self._collector is not None and self._collector.is_alive()
        if self._outputs not in self._places or is_busy or time.monotonic() < self._collect_at:
            return False
        self._collect_at = time.monotonic() + _COLLECT_LOOK_S
        if is_due(self._outputs.open()):
            self._collector = threading.Thread(target=self._collect_all, name="output-collector", daemon=True)
            self._collector.start()
        return False

    def _collect_all(self) -> None:
        try:
            done = collect(StoredOutputs(self._outputs.open().objects.url), stopping=self._stopping)
            log.info("outputs.collected objects=%d bytes=%d", *done)
        except LaunchError as error:
            log.warning("outputs.not_collected: %s", error)
            if not isinstance(error, DamagedError):
                # Workers keep their files until one has come to its end.
                self._collect_at = time.monotonic() + _TRY_AGAIN_S
        except Exception:
            log.exception("outputs.not_collected")

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
