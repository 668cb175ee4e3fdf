"""Reads the audit: what people did, and what became of workers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from launch_worker.database import audit
from launch_worker.database.audit import audit_lines
from launch_worker.database.database import Database
from launch_worker.database.version import check_version
from launch_worker.model.units import isoformat
from launch_worker.untrusted.text import read_map

#: Seconds for which a worker that is gone is shown, and such workers that are shown at most.
_GONE_S, _MOST_GONE = 3600, 50


@dataclass(frozen=True)
class Wanted:
    """The lines of the audit that meet all conditions that are given."""

    #: Part of the actor's name, in any letter case.
    who: str = ""
    what: str = ""
    #: Id or name of the run, sweep, schedule, queue, pool or worker.
    target: str = ""
    #: Server microseconds from which on it happened.
    since: int | None = None
    limit: int = 50


def acts(database: Database, wanted: Wanted) -> list[dict[str, Any]]:
    """The newest lines that fit, the newest first."""
    check_version(database)
    c = audit_lines.c
    query = select(audit_lines).order_by(c.at.desc(), c.id.desc()).limit(wanted.limit)
    if wanted.who:
        query = query.where(func.lower(c.actor).contains(wanted.who.lower(), autoescape=True))
    if wanted.what:
        query = query.where(c.what == wanted.what.lower())
    if wanted.target:
        query = query.where(c.target == wanted.target)
    if wanted.since is not None:
        query = query.where(c.at >= wanted.since)
    with database.reading() as connection:
        return [
            {
                "at": isoformat(row["at"]),
                "actor": row["actor"] or None,
                "what": row["what"],
                "kind": row["kind"],
                "target": row["target"],
                "detail": read_map(row["detail"]),
                "address": row["address"] or None,
                "result": row["result"] or None,
            }
            for row in connection.execute(query).mappings()
        ]


def gone_workers(database: Database) -> list[dict[str, Any]]:
    """The workers that were lost or left in the last hour, the newest first."""
    check_version(database)
    since = int((time.time() - _GONE_S) * 1e6)
    with database.reading() as connection:
        gone = audit.gone_workers(connection, ("lost", "left"), since=since, limit=_MOST_GONE)
    found = []
    for row, known in gone:
        host = str(known.get("host") or row.target.split(".")[0])
        found.append(
            {
                "worker": str(known.get("worker") or f"?@{host}"),
                "host": host,
                "queues": known.get("queues") or [],
                "state": row.what,
                "at": isoformat(row.at),
            }
        )
    return found
