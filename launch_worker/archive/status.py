"""Says how the archive is: whether a process writes it, how far behind it is, what it has."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, text

from launch_worker.archive.schema import leader, log_deletions, position, runs
from launch_worker.database.database import Database
from launch_worker.database.version import check_version
from launch_worker.model.units import isoformat
from launch_worker.store.changes import FIRST
from launch_worker.store.store import Store


@dataclass(frozen=True)
class Status:
    """An archive's condition. Times are server microseconds, and 0 for never."""

    database: str
    #: Process that writes: HOST:PID:NUMBER; '' for none.
    leader: str
    #: Runs by state; `deleted` runs and those that Redis `lost` are counted apart.
    counts: dict[str, int]
    #: Runs that have ended and that Redis may not forget yet.
    unsealed: int
    #: End of the longest-ended run whose small outputs are not packed yet; 0 for none.
    unpacked_since: int
    #: Deleted runs whose logs are there yet, or were not looked for again in time.
    undeleted_logs: int
    #: Seconds by which the oldest change that is not applied is older than now; 0 for none.
    lag_s: float
    applied_at: int
    walk_ended_at: int
    walk_mended: int
    size_bytes: int

    def as_json(self) -> dict[str, Any]:
        return {
            "database": self.database,
            "leader": self.leader or None,
            "runs": self.counts,
            "waiting_to_be_sealed": self.unsealed,
            "logs_to_delete": self.undeleted_logs,
            "lag_s": round(self.lag_s, 3),
            "applied_at": isoformat(self.applied_at or None),
            "walked_at": isoformat(self.walk_ended_at or None),
            "walk_mended": self.walk_mended,
            "size_bytes": self.size_bytes,
        }


def status(database: Database, store: Store) -> Status:
    """How the archive is now, compared with Redis."""
    check_version(database)
    c = runs.c
    with database.reading() as connection:
        at = connection.execute(select(position)).mappings().one()
        held = connection.execute(select(leader)).one()
        is_lost = (c.ended_at.is_(None) & c.forgotten_at.is_not(None)).label("is_lost")
        counts: dict[str, int] = {}
        query = select(c.state, c.deleted_at.is_not(None).label("is_deleted"), is_lost, func.count())
        for state, is_deleted, lost, count in connection.execute(query.group_by(c.state, "is_deleted", "is_lost")):
            name = "deleted" if is_deleted else "lost" if lost else state
            counts[name] = counts.get(name, 0) + count
        unsealed = connection.execute(
            select(func.count()).where(c.sealed.is_(None), c.ended_at.is_not(None))
        ).scalar_one()
        is_unpacked = c.sealed.is_not(None) & c.packed.is_(None) & c.forgotten_at.is_(None)
        unpacked_since = connection.execute(select(func.min(c.ended_at)).where(is_unpacked)).scalar()
        due = log_deletions.c.due_at <= store.now_us()
        undeleted_logs = connection.execute(select(func.count()).select_from(log_deletions).where(due)).scalar_one()
        size = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
        if not database.is_sqlite:
            size = "SELECT pg_database_size(current_database())"
        size_bytes = connection.execute(text(size)).scalar_one()
        # The clock of the lease (`leader`).
        clock = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)"
        now = time.time_ns() // 1000 if database.is_sqlite else connection.execute(text(clock)).scalar_one()
    unread = store.changes(at["feed_id"] or FIRST, count=1)
    lag_us = store.now_us() - int(unread[0].id.partition("-")[0]) * 1000 if unread else 0
    return Status(
        database=database.shown,
        leader=held.holder if held.until > now else "",
        counts=counts,
        unsealed=unsealed,
        unpacked_since=unpacked_since or 0,
        undeleted_logs=undeleted_logs,
        lag_s=max(0.0, lag_us / 1e6),
        applied_at=at["applied_at"],
        walk_ended_at=at["walk_ended_at"],
        walk_mended=at["walk_mended"],
        size_bytes=size_bytes,
    )
