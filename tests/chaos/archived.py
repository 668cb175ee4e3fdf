"""Compares the archive with the records and histories in Redis, and with what the jobs stamped themselves."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from launch_worker.database.database import Database
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
