"""Finds a run that Redis has forgotten, with its attempts and transitions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from launch_worker.archive import schema
from launch_worker.archive.rows import restored_record
from launch_worker.database.database import Database
from launch_worker.database.version import check_version
from launch_worker.errors import DamagedError, DeletedRunError
from launch_worker.logs.manifest import Manifest
from launch_worker.model.run import Record, no_such_attempt
from launch_worker.model.run_files import saved_files
from launch_worker.model.units import isoformat
from launch_worker.model.usage import Measured
from launch_worker.store.records import record_of
from launch_worker.untrusted.text import read_json, read_map

#: Reason that is shown of a run that Redis lost before it ended.
LOST = "Redis lost this run before it ended; how it ended is not known"


@dataclass(frozen=True)
class PastRun:
    """A run as the archive has it."""

    record: Record
    transitions: list[dict[str, Any]]
    attempts: list[dict[str, Any]]
    is_lost: bool

    def as_json(self) -> dict[str, Any]:
        """The object of `show --json`, with the attempts."""
        shown = self.record.as_json()
        if self.is_lost:
            shown["reason"] = LOST
        files = [file.as_json() for file in saved_files(self.record)]
        return shown | {"history": self.transitions, "files": files, "attempts": self.attempts}


def find(database: Database, run_id: str) -> PastRun | None:
    """The run with this id; None where the archive does not have it. Raises DeletedRunError for a deleted run."""
    check_version(database)
    with database.reading() as connection:
        row = connection.execute(select(schema.runs).where(schema.runs.c.id == run_id)).mappings().first()
        if row is None:
            return None
        if row["deleted_at"] is not None:
            by = row["deleted_by"] or "somebody"
            error = DeletedRunError(f"run {run_id} was deleted by {by} at {isoformat(row['deleted_at'])}")
            error.project = row["project"] or ""
            raise error
        return PastRun(
            record=restored_record(dict(row), record_of),
            transitions=transitions_of(connection, [run_id]).get(run_id, []),
            attempts=attempts_of(connection, [run_id]).get(run_id, []),
            is_lost=row["ended_at"] is None and row["forgotten_at"] is not None,
        )


def find_measured(database: Database, run_id: str, attempt: int | None) -> tuple[Record, Measured] | None:
    """The run, and what one of its attempts (the latest for None) used; None where the archive does not have the run.

    Raises DeletedRunError for a deleted run.
    """
    found = find(database, run_id)
    if found is None:
        return None
    number = attempt or found.record.attempt
    c = schema.usage.c
    with database.reading() as connection:
        query = select(schema.usage).where(c.run_id == run_id, c.attempt == number)
        row = connection.execute(query).mappings().first()
    kept = {} if row is None else {name: value for name, value in row.items() if value is not None}
    samples = read_map(kept.pop("samples", ""))
    text = json.dumps(kept | ({"samples": samples} if samples else {})) if kept else ""
    return found.record, Measured.of(number, text, is_running=False)


@dataclass(frozen=True)
class PastLog:
    """What the archive knows of the output of an attempt."""

    record: Record
    attempt: int
    #: Manifest of the output in a pack; without segments for an output that has a log of its own.
    packed: Manifest | None
    #: Whether the run's small outputs were packed before Redis forgot them.
    is_packed: bool


def find_log(database: Database, run_id: str, attempt: int | None) -> PastLog | None:
    """Where the output of an attempt (the latest for None) is; None where the archive does not have the run.

    Raises DeletedRunError for a deleted run, InputError for an attempt that the run has not had.
    """
    found = find(database, run_id)
    if found is None:
        return None
    number, latest = attempt or found.record.attempt, found.record.attempt
    if number > latest:
        raise no_such_attempt(run_id, latest, number)
    c = schema.packed_logs.c
    with database.reading() as connection:
        text = connection.execute(select(c.manifest).where(c.run_id == run_id, c.attempt == number)).scalar()
        packed_at = connection.execute(select(schema.runs.c.packed).where(schema.runs.c.id == run_id)).scalar()
    try:
        packed = Manifest.from_json(text.encode()) if text else None
    except ValueError as error:
        raise DamagedError(f"the archive's manifest of run {run_id}, attempt {number}, is damaged: {error}") from None
    return PastLog(found.record, number, packed, bool(packed_at))


def transitions_of(connection: Connection, run_ids: list[str]) -> dict[str, list[dict[str, Any]]]:
    """The transitions of these runs, the oldest first, as `show --json` has them."""
    c = schema.transitions.c
    found: dict[str, list[dict[str, Any]]] = {}
    for row in connection.execute(select(schema.transitions).where(c.run_id.in_(run_ids)).order_by(c.run_id, c.seq)):
        step = {"state": row.state, "at": isoformat(row.at), "attempt": row.attempt}
        step |= {"worker": row.worker or None, "reason": row.reason or None}
        found.setdefault(row.run_id, []).append(step | ({"actor": row.actor} if row.actor else {}))
    return found


def attempts_of(connection: Connection, run_ids: list[str]) -> dict[str, list[dict[str, Any]]]:
    """The attempts of these runs, the first one first."""
    c = schema.attempts.c
    found: dict[str, list[dict[str, Any]]] = {}
    for row in connection.execute(select(schema.attempts).where(c.run_id.in_(run_ids)).order_by(c.run_id, c.attempt)):
        shown: dict[str, Any] = {"attempt": row.attempt, "state": row.state, "exit_code": row.exit_code}
        texts = ("worker", "host", "signal", "phase", "reason", "message")
        shown |= {name: row._mapping[name] or None for name in texts}
        shown |= {"gpus": _list(row.gpus), "started_at": isoformat(row.started_at), "ended_at": isoformat(row.ended_at)}
        found.setdefault(row.run_id, []).append(shown)
    return found


def _list(text: str) -> list[str]:
    try:
        value = read_json(text) if text else []
    except ValueError:
        return []
    return [str(entry) for entry in value] if isinstance(value, list) else []
