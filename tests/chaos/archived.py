"""Compares the archive with the records and histories in Redis, and with what the jobs stamped themselves."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from sqlalchemy import select

from launch_worker.archive import schema
from launch_worker.database.database import Database
from launch_worker.logs.manifest import Manifest
from launch_worker.logs.opening import stored_output
from launch_worker.logs.stored import StoredLogs
from launch_worker.model.log_pieces import Joiner
from launch_worker.store.store import Store
from tests.support.archives import everything


def differences(url: str, store: Store, stamped: Mapping[str, Collection[int]], left_out: Collection[str]) -> list[str]:
    """What the archive has otherwise, twice or not at all. `stamped`: the attempts that each run's jobs tell of."""
    database = Database(url)
    try:
        return list(_differences(everything(database), store, stamped, left_out))
    finally:
        database.close()


def _differences(
    found: dict[str, list[dict[str, object]]],
    store: Store,
    stamped: Mapping[str, Collection[int]],
    left_out: Collection[str],
) -> Iterator[str]:
    rows = {str(row["id"]): row for row in found["runs"]}
    told: dict[str, list[tuple[object, object]]] = {}
    for step in found["transitions"]:
        told.setdefault(str(step["run_id"]), []).append((step["state"], step["at"]))
    attempts: dict[str, list[object]] = {}
    for attempt in found["attempts"]:
        attempts.setdefault(str(attempt["run_id"]), []).append(attempt["attempt"])
    if len(rows) != len(found["runs"]):
        yield "the archive has a run twice"
    records = {record.id: record for record in store.runs() if record.id not in left_out}
    if missing := records.keys() - rows.keys():
        yield f"the archive lacks {len(missing)} runs, {min(missing)} among them"
    for run_id in records.keys() & rows.keys():
        record, row = records[run_id], rows[run_id]
        known = (row["state"], row["attempt"], row["ended_at"])
        if known != (record.state.value, record.attempt, record.ended_at):
            yield f"the archive has {known} of {run_id}, Redis {record.state} in attempt {record.attempt}"
        if told.get(run_id) != [(step.state.value, step.at) for step in store.history(run_id)]:
            yield f"the archive tells another history of {run_id}"
        if left := set(stamped.get(run_id, ())) - set(attempts.get(run_id, ())):
            yield f"the archive lacks attempts {sorted(left)} of {run_id}, whose jobs have left stamps"


def packed_otherwise(url: str, log_url: str, store: Store, left_out: Collection[str]) -> list[str]:
    """The outputs that are in packs otherwise than Redis has them, which keeps all runs for the time of a test."""
    database = Database(url)
    try:
        return list(_packed_otherwise(database, StoredLogs(log_url), store, left_out))
    finally:
        database.close()


def _packed_otherwise(database: Database, stored: StoredLogs, store: Store, left_out: Collection[str]) -> Iterator[str]:
    with database.reading() as connection:
        packed = select(schema.runs.c.id, schema.runs.c.attempt).where(schema.runs.c.packed == schema.runs.c.ended_at)
        attempts = {row.id: row.attempt for row in connection.execute(packed) if row.id not in left_out}
        manifests = {(row.run_id, row.attempt): row.manifest for row in connection.execute(select(schema.packed_logs))}
    for run_id, latest in attempts.items():
        for number in range(1, latest + 1):
            chunks = store.log(run_id, number)
            text = manifests.get((run_id, number))
            if chunks and chunks[0].offset > 0:
                continue  # a worker stores it
            found = b""
            if text is not None:
                pieces = stored_output(Manifest.from_json(text.encode()), stored).all()
                found = b"".join(piece.data for piece in pieces)
            # Of a line of which a full disk has lost the beginning nothing is shown.
            joiner = Joiner()
            kept = b"".join(joiner.add(chunk.offset, chunk.data)[0] for chunk in chunks)
            if found != kept:
                yield f"{run_id}: attempt {number}: a pack has {len(found)} bytes of its output, Redis {len(kept)}"
