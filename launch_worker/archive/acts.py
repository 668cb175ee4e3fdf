"""Reads the audit: what people did, and what became of workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from launch_worker.database.audit import audit_lines
from launch_worker.database.database import Database
from launch_worker.database.version import check_version
from launch_worker.model.units import isoformat
from launch_worker.untrusted.text import read_map


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
