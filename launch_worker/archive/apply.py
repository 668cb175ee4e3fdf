"""Writes what changed into the archive's tables, so that it may come twice, in any order, or with gaps."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table, bindparam, delete, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from launch_worker.archive import rows, schema
from launch_worker.archive.bulk import upsert
from launch_worker.archive.rows import Row
from launch_worker.database.audit import SERVER, audit_lines
from launch_worker.model.states import RunState
from launch_worker.store.changes import Change
from launch_worker.store.outlines import WholeRun
from launch_worker.store.records import record_of
from launch_worker.untrusted.text import read_map

#: Values in one list of a query: older SQLite takes 32,766 in all.
_MANY = 500
_THINGS = {"sweep": schema.sweeps, "schedule": schema.schedules, "group": schema.run_groups}
#: Kinds of changes that become lines of the audit.
_AUDITED = ("act", "sweep", "schedule", "queue", "pool", "worker", "gone")
#: Columns that the record says better than the feed: that another worker adopted the attempt is no arrow.
AT_END = ("worker", "host", "exit_code", "signal", "phase", "message")
#: Columns that a deleted run loses: all that its submitter wrote, but for the name.
_EMPTIED = ("command", "image", "config", "spec", "reason", "message", "search", "record")


class Applier:
    """Applies changes within one transaction, that of the connection; the caller holds the lease."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._dialect: Any = sqlite if connection.dialect.name == "sqlite" else postgresql

    def changes(self, changes: Iterable[Change]) -> set[str]:
        """Apply entries of the feed. Returns the runs of which they are not enough: those must be read whole."""
        batch = _Batch(self._known({change.fields.get("id", "") for change in changes if change.kind == "run"}))
        gone: dict[str, tuple[int, str]] = {}
        audit: list[Row] = []
        things: list[tuple[Table, Change]] = []
        for change in changes:
            if change.kind == "run":
                batch.run(change)
                if change.fields.get("created_at"):
                    # A run without an actor was made by a schedule or a sweep.
                    if not change.fields.get("actor") or change.fields.get("as") != SERVER:
                        audit.append(_submit_row(change))
                    continue
            elif change.kind == "gone":
                gone[change.fields.get("id", "")] = (_at(change), change.fields.get("actor", ""))
            elif change.kind in _THINGS:
                things.append((_THINGS[change.kind], change))
            actor = change.fields.get("actor", "")
            # The server's own acts have their lines, which were written before they were done.
            if (change.kind in _AUDITED or actor) and not actor.endswith(f" as {SERVER}"):
                audit.append(_audit_row(change))
        self._write(batch)
        self._check_repeated(batch)
        self.delete_content(gone)
        self._add_audit(audit)
        for table, change in things:
            self._thing(table, change)
        return batch.doubts - gone.keys()

    def whole_runs(self, runs: Sequence[WholeRun], *, is_first: bool = False) -> list[tuple[str, int]]:
        """Write these runs anew, as they are in Redis. Returns each that has ended, with its `ended_at`.

        `is_first`: the archive has nothing of them yet.
        """
        if not runs:
            return []
        found: dict[str, list[Row]] = {name: [] for name in ("runs", "tags", "attempts", "transitions", "usage")}
        ended = []
        for run in runs:
            record = record_of(run.id, run.fields)
            lines = rows.history_lines(run.history, record.created_at)
            row, tags = rows.whole(record, max(len(run.history), lines[-1][0] if lines else 0))
            if row["ended_at"] is not None:
                row |= {"record": rows.record_text(run.fields), "sealed": row["ended_at"]}
                ended.append((run.id, row["ended_at"]))
            found["runs"].append(row)
            found["tags"] += [{"run_id": run.id, "tag": tag} for tag in tags]
            found["attempts"] += rows.attempts_of(record, lines)
            found["transitions"] += [
                rows.transition(run.id, place, step, str(more.get("actor", ""))) for place, step, more in lines
            ]
            found["usage"] += rows.usages(run.id, record.attempt, run.fields.get("usage", ""), run.usage)
        if not is_first:
            ids = [run.id for run in runs]
            self._fill_attempts(found["attempts"], ids)
            for table in (schema.run_tags, schema.attempts, schema.transitions):
                self._delete(table, ids)
        upsert(self._connection, schema.runs, found["runs"])
        upsert(self._connection, schema.run_tags, found["tags"])
        upsert(self._connection, schema.attempts, found["attempts"])
        upsert(self._connection, schema.transitions, found["transitions"])
        upsert(self._connection, schema.usage, found["usage"])
        return ended

    def seal(
        self, hashes: dict[str, dict[str, str]], sealable: Sequence[Any], usages: Mapping[str, Mapping[int, str]]
    ) -> tuple[list[tuple[str, int]], set[str]]:
        """Keep the records of runs that have ended: `sealable` are their rows' id, state, attempt and ended_at.

        `usages` are what is kept beside the records of what their attempts used.

        Returns each that the archive has whole now, with its `ended_at`; and those whose records say something else
        than the archive: they must be read whole.
        """
        sealed: list[Row] = []
        used: list[Row] = []
        doubts: set[str] = set()
        for row in sealable:
            fields = hashes.get(row.id)
            if fields is None:
                # The next walk finds out what became of it.
                sealed.append(
                    {"of": row.id, "record": "", "sealed": row.ended_at} | {name: row._mapping[name] for name in AT_END}
                )
                continue
            record = record_of(row.id, fields)
            now = rows.state_of(record)
            if (now["state"], now["attempt"], now["ended_at"]) != (row.state, row.attempt, row.ended_at):
                doubts.add(row.id)
                continue
            kept = {name: now[name] for name in AT_END}
            sealed.append({"of": row.id, "record": rows.record_text(fields), "sealed": row.ended_at} | kept)
            used += rows.usages(row.id, record.attempt, fields.get("usage", ""), usages.get(row.id, {}))
        if sealed:
            self._update_runs(sealed)
        upsert(self._connection, schema.usage, used)
        return [(row["of"], row["sealed"]) for row in sealed], doubts

    def delete_content(self, deleted: dict[str, tuple[int, str]]) -> None:
        """Empty the rows of runs that a person deleted; runs that the archive does not have stay away."""
        if not deleted:
            return
        self._delete_logs({run_id: at for run_id, (at, _) in deleted.items()})
        empty: Row = dict.fromkeys(_EMPTIED, "")
        self._update_runs(
            [
                empty | {"of": run_id, "deleted_at": at, "deleted_by": rows.plain(by), "forgotten_at": at}
                for run_id, (at, by) in deleted.items()
            ]
        )
        self._delete(schema.run_tags, list(deleted))
        reasonless = {"reason": "", "message": ""}
        for chunk in _chunks(list(deleted)):
            attempts, steps = schema.attempts, schema.transitions
            self._connection.execute(update(attempts).where(attempts.c.run_id.in_(chunk)).values(reasonless))
            self._connection.execute(update(steps).where(steps.c.run_id.in_(chunk)).values(reason=""))

    def delete_rows(self, run_ids: Sequence[str], *, at: int) -> None:
        """Delete these runs with everything that belongs to them."""
        self._delete_logs(dict.fromkeys(run_ids, at))
        for table in (schema.run_tags, schema.attempts, schema.transitions, schema.usage):
            self._delete(table, run_ids)
        for chunk in _chunks(run_ids):
            self._connection.execute(delete(schema.runs).where(schema.runs.c.id.in_(chunk)))

    def _delete_logs(self, deleted: Mapping[str, int]) -> None:
        """Have the logs of these runs deleted, which were deleted at these times."""
        self.unpack(list(deleted))
        table = schema.log_deletions
        statement = self._dialect.insert(table)
        excluded = statement.excluded
        again = {"deleted_at": excluded.deleted_at, "due_at": excluded.due_at}
        statement = statement.on_conflict_do_update(
            index_elements=["run_id"], set_=again, where=table.c.deleted_at < excluded.deleted_at
        )
        if deleted:
            rows = [{"run_id": run_id, "deleted_at": at, "due_at": at} for run_id, at in deleted.items()]
            self._connection.execute(statement, rows)

    def unpack(self, run_ids: Sequence[str]) -> None:
        """Take the outputs of these runs out of their packs."""
        packs, packed = schema.packs, schema.packed_logs
        for chunk in _chunks(run_ids):
            theirs = select(packed.c.pack).where(packed.c.run_id.in_(chunk))
            self._connection.execute(update(packs).where(packs.c.name.in_(theirs)).values(changed=1))
        self._delete(packed, run_ids)

    def _fill_attempts(self, found: list[Row], run_ids: list[str]) -> None:
        """Give earlier attempts what their histories do not tell, and the archive knows."""
        c = schema.attempts.c
        known: dict[tuple[str, int], Any] = {}
        for chunk in _chunks(run_ids):
            for row in self._connection.execute(select(schema.attempts).where(c.run_id.in_(chunk))).mappings():
                known[row["run_id"], row["attempt"]] = row
        for new in found:
            old = known.get((new["run_id"], new["attempt"]))
            if old is not None and old["started_at"] == new["started_at"] and not new["host"]:
                new |= {name: old[name] for name in ("host", "gpus", "message")}

    def _known(self, run_ids: set[str]) -> dict[str, Row]:
        c = schema.runs.c
        columns = (c.id, c.seq, c.state, c.reason, c.attempt, c.search, c.deleted_at)
        found: dict[str, Row] = {}
        for chunk in _chunks(list(run_ids)):
            for row in self._connection.execute(select(*columns).where(c.id.in_(chunk))):
                found[row.id] = dict(row._mapping)
        return found

    def _write(self, batch: _Batch) -> None:
        upsert(self._connection, schema.runs, list(batch.new.values()))
        upsert(self._connection, schema.run_tags, batch.tags)
        # Rows with the same columns go into one statement.
        moved: dict[tuple[str, ...], list[Row]] = {}
        for run_id, row in batch.moved.items():
            moved.setdefault(tuple(row), []).append(row | {"of": run_id})
        for values in moved.values():
            self._update_runs(values)
        upsert(self._connection, schema.attempts, list(batch.attempts.values()))
        if batch.ends:
            attempts = schema.attempts
            is_it = (attempts.c.run_id == bindparam("of"), attempts.c.attempt == bindparam("number_of"))
            self._connection.execute(update(attempts).where(*is_it), batch.ends)
        upsert(self._connection, schema.transitions, batch.transitions)
        upsert(self._connection, schema.usage, batch.usage)

    def _check_repeated(self, batch: _Batch) -> None:
        """Doubt the runs of which an entry says something else than the archive: Redis was rolled back."""
        c = schema.transitions.c
        for chunk in _chunks(list(batch.repeated)):
            places = tuple_(c.run_id, c.seq).in_(chunk)
            there = {
                (row.run_id, row.seq): (row.state, row.at)
                for row in self._connection.execute(select(c.run_id, c.seq, c.state, c.at).where(places))
            }
            batch.doubts |= {place[0] for place in chunk if there.get(place) != batch.repeated[place]}

    def _add_audit(self, found: list[Row]) -> None:
        if found:
            self._connection.execute(
                self._dialect.insert(audit_lines).on_conflict_do_nothing(index_elements=["change_id"]), found
            )

    def _thing(self, table: Table, change: Change) -> None:
        fields, at = change.fields, _at(change)
        what, name = fields.get("what", ""), rows.plain(fields.get("id", ""), rows.MAX_INDEXED)
        row: Row = {"what": rows.plain(what), "actor": rows.plain(fields.get("actor", "")), "changed_at": at}
        row["deleted_at"] = at if what == "deleted" else None
        if fields.get("detail"):
            row["detail"] = rows.plain(fields["detail"])
        if what == "created":
            row["created_at"] = at
        statement = self._dialect.insert(table).values(id=name, **row)
        self._connection.execute(
            statement.on_conflict_do_update(index_elements=["id"], set_=row, where=table.c.changed_at <= at)
        )

    def _update_runs(self, values: list[Row]) -> None:
        """Change the columns of runs; `of` is the id, and all rows have the same columns."""
        self._connection.execute(update(schema.runs).where(schema.runs.c.id == bindparam("of")), values)

    def _delete(self, table: Table, run_ids: Sequence[str]) -> None:
        for chunk in _chunks(run_ids):
            self._connection.execute(delete(table).where(table.c.run_id.in_(chunk)))


class _Batch:
    """What entries of the feed make of the runs that the archive knows; nothing is written here."""

    def __init__(self, known: dict[str, Row]) -> None:
        self._known = known
        #: Rows of runs that were created, and changed columns of other ones.
        self.new: dict[str, Row] = {}
        self.moved: dict[str, Row] = {}
        self.tags: list[Row] = []
        #: Attempts that began, and the ends of attempts that began before.
        self.attempts: dict[tuple[str, int], Row] = {}
        self.ends: list[Row] = []
        self.transitions: list[Row] = []
        self.usage: list[Row] = []
        #: Runs that must be read whole.
        self.doubts: set[str] = set()
        #: Places in histories that were applied before: state and time that the entry gives.
        self.repeated: dict[tuple[str, int], tuple[str, int]] = {}

    def run(self, change: Change) -> None:
        fields = change.fields
        run_id, seq, at = fields.get("id", ""), rows.number(fields.get("n")), rows.number(fields.get("at"))
        if not run_id:
            return
        row = self._known.get(run_id)
        state = _STATES.get(fields.get("state", ""))
        if run_id in self.doubts:
            return
        if seq is None or at is None or state is None or fields.get("restored"):
            self.doubts.add(run_id)
        elif row is None:
            self._create(run_id, seq, at, fields)
        elif row["deleted_at"] is not None:
            # An id may be used again when nobody remembers the deleted run any more.
            if at > row["deleted_at"]:
                self.doubts.add(run_id)
        elif seq <= row["seq"]:
            self.repeated[run_id, seq] = (state.value, at)
        elif seq == row["seq"] + 1 and not fields.get("big") and not fields.get("created_at"):
            self._move(run_id, row, seq, at, state, fields)
        else:
            self.doubts.add(run_id)

    def _create(self, run_id: str, seq: int, at: int, fields: Any) -> None:
        if not fields.get("created_at") or fields.get("big") or not fields.get("spec"):
            self.doubts.add(run_id)
            return
        row, tags = rows.created(fields)
        row["seq"] = seq
        self.new[run_id] = self._known[run_id] = row
        self.tags += [{"run_id": run_id, "tag": tag} for tag in tags]
        self._transition(run_id, seq, at, row["state"], 0, fields)

    def _move(self, run_id: str, row: Row, seq: int, at: int, state: RunState, fields: Any) -> None:
        attempt = rows.number(fields.get("attempt")) or row["attempt"]
        reason = fields.get("reason", "")
        changed: Row = {"state": state.value, "reason": rows.plain(reason), "seq": seq, "sealed": None, "record": ""}
        changed["packed"] = None
        if reason != row["reason"]:
            changed["search"] = rows.with_reason(row["search"], reason)
        changed["ended_at"] = None
        if state is RunState.RUNNING:
            worker, host = rows.plain(fields.get("worker", "")), rows.plain(fields.get("host", ""))
            started = rows.number(fields.get("started_at")) or at
            nothing: Row = {"exit_code": None, "signal": "", "phase": "", "message": ""}
            changed |= {"attempt": attempt, "worker": worker, "host": host, "started_at": started} | nothing
            begun = rows.attempt(run_id, attempt) | {"state": state.value, "worker": worker, "host": host}
            self.attempts[run_id, attempt] = begun | {
                "gpus": rows.gpus_text(fields.get("gpus", "")),
                "started_at": started,
            }
        elif state is not RunState.PENDING:
            changed["ended_at"] = rows.number(fields.get("ended_at")) or at
            end = {name: rows.plain(fields.get(name, "")) for name in ("signal", "phase", "message")}
            end_row: Row = end | {"exit_code": rows.number(fields.get("exit_code"))}
            if row["state"] != RunState.PENDING.value:
                changed |= end_row
                self._end(run_id, attempt, end_row | {name: changed[name] for name in ("state", "reason", "ended_at")})
            else:
                changed |= {name: value for name, value in end_row.items() if value}
        used = rows.usage(run_id, attempt, fields.get("usage", ""))
        if used:
            self.usage.append(used)
        self._transition(run_id, seq, at, state.value, rows.number(fields.get("attempt")) or 0, fields)
        row |= changed
        if run_id not in self.new:
            self.moved.setdefault(run_id, {}).update(changed)

    def _end(self, run_id: str, attempt: int, end: Row) -> None:
        begun = self.attempts.get((run_id, attempt))
        if begun is not None:
            begun |= end
        elif attempt:
            self.ends.append(end | {"of": run_id, "number_of": attempt})

    def _transition(self, run_id: str, seq: int, at: int, state: str, attempt: int, fields: Any) -> None:
        texts = {name: rows.plain(fields.get(name, "")) for name in ("worker", "reason", "actor")}
        self.transitions.append({"run_id": run_id, "seq": seq, "state": state, "at": at, "attempt": attempt} | texts)


_STATES = {state.value: state for state in RunState}


def _at(change: Change) -> int:
    return rows.number(change.fields.get("at")) or rows.number(change.id.partition("-")[0] + "000") or 0


def _audit_row(change: Change) -> Row:
    fields = change.fields
    what = fields.get("what") or ("deleted" if change.kind == "gone" else fields.get("state", "").lower())
    detail = fields.get("detail", "")
    if change.kind == "run" and fields.get("reason"):
        detail = json.dumps({"reason": fields["reason"]})
    if change.kind == "worker" and fields.get("name"):
        # Its id is one life's; people know it by its name.
        detail = json.dumps({"worker": fields["name"]} | read_map(detail))
    return {
        "change_id": change.id,
        "at": _at(change),
        "actor": rows.plain(fields.get("actor", "")),
        "what": rows.plain(what),
        "kind": "run" if change.kind in ("act", "gone") else change.kind,
        "target": rows.plain(fields.get("id", ""), rows.MAX_INDEXED),
        "detail": rows.plain(detail),
    }


def _submit_row(change: Change) -> Row:
    """The line of the audit for a submission: its actor is the user, else the author of the spec, as which Redis user.

    A user is there, and proven, where a server submitted.
    """
    author, user = rows.plain(change.fields.get("author", "")), change.fields.get("as", "")
    actor = rows.plain(change.fields.get("user", "")) or (f"{author} as {rows.plain(user)}" if user else author)
    return _audit_row(change) | {"what": "submit", "actor": actor}


def _chunks(values: Sequence[Any]) -> Iterable[list[Any]]:
    for start in range(0, len(values), _MANY):
        yield list(values[start : start + _MANY])
