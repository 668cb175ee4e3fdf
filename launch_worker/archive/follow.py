"""Runs the archive: it makes the tables, leads, follows the change feed, walks after each gap, and outlasts outages."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from inspect import GEN_CREATED, getgeneratorstate
from pathlib import Path

from sqlalchemy import Connection, select, update

from launch_worker.archive.apply import AT_END, Applier
from launch_worker.archive.leader import LEASE_S, Lease, LeaseLostError
from launch_worker.archive.log_keeper import LogKeeper
from launch_worker.archive.schema import position, runs
from launch_worker.archive.trouble import Trouble
from launch_worker.archive.walk import Walk, read_whole
from launch_worker.database.database import Database
from launch_worker.database.migrate import migrate
from launch_worker.database.version import has_tables
from launch_worker.errors import ArchiveError, ArchiveUnavailableError, BrokerUnavailableError, LaunchError
from launch_worker.redis_url import mask_url
from launch_worker.store.changes import FIRST, Change
from launch_worker.store.store import Store

log = logging.getLogger("launch_worker.archive")

#: Entries of the feed in one transaction, and seconds to wait for the first.
_BATCH = 2000
_WAIT_S = 1.0
#: Seconds from a few changes to the next: each transaction keeps other writers of the database waiting.
_TURN_S = 0.1
#: Seconds between two looks of a process that waits whether the lease is free.
_LEASE_LOOK_S = 1.0
#: Seconds between two renewals of the feed, and between two walks without a reason.
_RENEW_S = 60.0
_WALK_S = 3600.0
#: Milliseconds after which an entry is one of the future, as for the script `follow`.
_FUTURE_MS = 3_600_000
#: Seconds after its end in which a run's record may still get a late word, and rows that are sealed at once.
SETTLE_S = 5.0
_SEAL = 500
#: Seconds for which an ended run's small output waits for others at most, to be packed with them.
_PACK_AFTER_S = 3600.0


class Archive:
    """The one process that writes an archive. `run` returns when `stopping` is set."""

    def __init__(
        self,
        store: Store,
        database: Database,
        *,
        stopping: threading.Event,
        health_file: Path | None = None,
        settle_s: float = SETTLE_S,
        log_url: str = "",
        output_url: str = "",
        retention_s: float = 30 * 86400.0,
    ) -> None:
        """`log_url`: LAUNCH_LOG_URL, where it packs small outputs and deletes the logs of deleted runs; '' for nowhere.
        `output_url`: LAUNCH_OUTPUT_URL, where it deletes what jobs of deleted runs left.

        `retention_s`: seconds after its end in which Redis has a run in any case.
        """
        self._store = store
        self._database = database
        self._stopping = stopping
        self._health_file = health_file
        self._settle_s = settle_s
        self._lease = Lease(database)
        self._log_url = log_url
        self._output_url = output_url
        self.log_keeper = LogKeeper(
            store,
            database,
            self._writing,
            url=log_url,
            output_url=output_url,
            stopping=stopping,
            pack_after_s=min(_PACK_AFTER_S, retention_s / 2),
        )
        self._trouble = Trouble("archive.waits", "archive.goes_on")
        self._leads = False
        self._walk: Generator[None] | None = None
        self._walk_at = 0.0
        #: Whether something was missed after the walk that goes on had begun.
        self._walks_again = False
        self._renew_at = 0.0
        #: Monotonic time at which the lease was last renewed.
        self._renewed_s = 0.0
        self._feed_id = FIRST
        #: Monotonic time from which on a few changes are worth a transaction.
        self._turn_at = 0.0

    def run(self) -> None:
        """Keep the archive until it is asked to stop. Raises ArchiveError for what only a person can mend."""
        while not self._stopping.is_set():
            try:
                if self.lead():
                    if self._log_url or self._output_url:
                        self.log_keeper.start()
                    while not self._stopping.is_set():
                        self.step()
            except LeaseLostError:
                self._leads = False
                log.warning("archive.deposed: another process writes the archive now; this one waits")
            except (BrokerUnavailableError, ArchiveUnavailableError) as error:
                self._stopping.wait(self._trouble.pause_s(error))
        self.log_keeper.stop()
        self.release()

    def release(self) -> None:
        """Let another process lead."""
        try:
            self._lease.release()
        except ArchiveError:
            # The next process waits for the end of the lease.
            log.debug("archive.unreleased")

    def lead(self) -> bool:
        """Wait for the lease, and begin where the one before has stopped; False when the process stops."""
        file = self._database.file
        if file is not None:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not has_tables(self._database):
            migrate(self._database)
        has_said = False
        while holder := self._lease.take():
            if not has_said:
                has_said = True
                log.warning("archive.waits holder=%s: that process writes the archive; this one is ready", holder)
            self._touch()
            if self._stopping.wait(_LEASE_LOOK_S):
                return False
        if migrate(self._database):
            log.info("archive.migrated")
        with self._database.reading() as connection:
            self._feed_id = connection.execute(select(position.c.feed_id)).scalar_one() or FIRST
        if not self._leads:
            self._leads = True
            log.info("archive.leads database=%s", self._database.shown)
        self._renew_at = 0.0
        self._walk = None
        self._missed("it begins")
        return True

    def step(self, *, wait_s: float = _WAIT_S) -> bool:
        """Do the next bounded piece of work; with nothing to do, wait for a change. Returns whether there was some."""
        if time.monotonic() >= self._renew_at:
            self._renew()
        if time.monotonic() - self._renewed_s > LEASE_S / 3:
            with self._writing():
                pass  # where nothing happens, nothing else renews the lease
        is_busy = self._walk is not None or self._seal()
        is_busy = self.follow(wait_s=0.0 if is_busy else wait_s) or is_busy
        if self._walk is not None:
            try:
                next(self._walk)
            except StopIteration:
                self._walk = None
                self._walk_at = time.monotonic() + _WALK_S
                log.info("archive.walked")
                if self._walks_again:
                    self._begin_walk("some was missed meanwhile")
        elif time.monotonic() >= self._walk_at:
            self._begin_walk("an hour has gone by")
        self._trouble.over()
        self._touch()
        return is_busy

    def follow(self, *, wait_s: float = 0.0) -> bool:
        """Apply the next entries of the feed. Returns whether there were some."""
        if wait_s:
            self._stopping.wait(max(0.0, self._turn_at - time.monotonic()))
        changes = self._store.changes(self._feed_id, count=_BATCH, block_s=wait_s)
        end = self._end_of_present(changes)
        if end < len(changes):
            # No other entry can come after that one. The feed is made anew when its registration is renewed.
            log.warning(
                "archive.future change=%s: the feed has an entry of the future, and is made anew", changes[end].id
            )
            changes, self._renew_at = changes[:end], 0.0
        if len(changes) == _BATCH:
            self._check_for_gap()
        elif changes:
            self._turn_at = time.monotonic() + _TURN_S
        self.apply(changes)
        return bool(changes)

    def _end_of_present(self, changes: Sequence[Change]) -> int:
        """The number of entries before the first one of the future: who may write to the feed chooses their places."""
        # Places only grow.
        if not changes or _place(changes[-1].id)[0] <= time.time() * 1000 + _FUTURE_MS:
            return len(changes)
        last_ms = self._store.now_us() // 1000 + _FUTURE_MS
        return next((at for at, change in enumerate(changes) if _place(change.id)[0] > last_ms), len(changes))

    def walk(self) -> None:
        """Compare the archive with all that Redis has, without following meanwhile."""
        self._begin_walk("it is asked for")
        assert self._walk is not None
        for _ in self._walk:
            pass
        self._walk = None

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._database.writing() as connection:
            self._lease.renew(connection)
            yield connection
        self._renewed_s = time.monotonic()

    def _missed(self, why: str) -> None:
        """Note that the archive may not have all that happened, until a walk that begins now has come to its end."""
        with self._writing() as connection:
            connection.execute(update(position).values(missed_at=self._store.now_us()))
        if self._walk is None or getgeneratorstate(self._walk) == GEN_CREATED:
            self._begin_walk(why)
        else:
            self._walks_again = True

    def _begin_walk(self, why: str) -> None:
        log.debug("archive.walks because=%r", why)
        self._walks_again = False
        self._walk = Walk(self._store, self._writing, packs=bool(self._log_url)).steps()

    def _renew(self) -> None:
        """Have the feed kept, and find out whether some of it is missing."""
        if self._store.want_changes():
            self._check_for_gap()
        else:
            # Places in a new feed may come before those in the old one.
            self._feed_id = FIRST
            self._missed("the feed is new")
        self._store.register_archive(
            self._lease.holder, log_url=mask_url(self._log_url), output_url=mask_url(self._output_url)
        )
        with self._writing() as connection:
            connection.execute(update(position).values(asked_at=self._store.now_us()))
        self._renew_at = time.monotonic() + _RENEW_S

    def _check_for_gap(self) -> None:
        oldest = self._store.oldest_change()
        if oldest and _place(oldest) > _place(self._feed_id) and self._feed_id != FIRST:
            self._missed("the feed has forgotten what came after the last entry")

    def apply(self, changes: Sequence[Change]) -> None:
        """Apply entries of the feed, all that come after the position or some that came before."""
        if not changes:
            return
        try:
            self._apply_at_once(changes)
        except (ArchiveUnavailableError, BrokerUnavailableError):
            raise
        except LaunchError as error:
            log.error("archive.refused first=%s: %s", changes[0].id, error)
            self._apply_one_by_one(changes)
        self._feed_id = changes[-1].id
        if any(change.kind == "feed" for change in changes):
            self._missed("the feed is new")

    def _apply_at_once(self, changes: Sequence[Change]) -> None:
        with self._writing() as connection:
            applier = Applier(connection)
            doubts = applier.changes(changes)
            sealed = read_whole(applier, self._store, sorted(doubts))
            self._note_position(connection, changes[-1])
        self._confirm(sealed)

    def _apply_one_by_one(self, changes: Sequence[Change]) -> None:
        """Apply what the database takes: one value of a stranger must not keep all others out."""
        for change in changes:
            try:
                with self._writing() as connection:
                    Applier(connection).changes([change])
            except (ArchiveUnavailableError, BrokerUnavailableError):
                raise
            except LaunchError as error:
                log.error("archive.left_out change=%s run=%s: %s", change.id, change.fields.get("id", ""), error)
        with self._writing() as connection:
            self._note_position(connection, changes[-1])
        self._missed("the database refused changes")

    def _confirm(self, sealed: Sequence[tuple[str, int]]) -> None:
        """Let Redis forget these runs, unless their outputs are to be packed before."""
        if not self._log_url:
            self._store.confirm_archived(sealed)

    def _note_position(self, connection: Connection, last: Change) -> None:
        connection.execute(update(position).values(feed_id=last.id, applied_at=int(last.id.partition("-")[0]) * 1000))

    def _seal(self) -> bool:
        """Keep the records of some runs that have ended, and let Redis forget them. Returns whether there were some."""
        before = self._store.now_us() - int(self._settle_s * 1e6)
        c = runs.c
        columns = (c.id, c.state, c.attempt, c.ended_at, *(c[name] for name in AT_END))
        query = select(*columns).where(c.sealed.is_(None), c.ended_at.is_not(None), c.ended_at < before).limit(_SEAL)
        with self._database.reading() as connection:
            sealable = connection.execute(query).all()
        if not sealable:
            return False
        ids = [row.id for row in sealable]
        hashes = self._store.hashes(ids)
        usages = self._store.usages_beside(hashes)
        with self._writing() as connection:
            applier = Applier(connection)
            sealed, doubts = applier.seal(hashes, sealable, usages)
            sealed += read_whole(applier, self._store, sorted(doubts))
        self._confirm(sealed)
        return True

    def _touch(self) -> None:
        if self._health_file is not None:
            try:
                self._health_file.touch()
            except OSError as error:
                log.error("health.file_untouched %s", error)


def _place(entry_id: str) -> tuple[int, int]:
    time_ms, _, number = entry_id.partition("-")
    return int(time_ms), int(number or 0)
