"""Packs the small outputs of ended runs into objects in the store of logs, before Redis forgets them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, or_, select, update

from launch_worker.archive.apply import Applier
from launch_worker.archive.bulk import upsert
from launch_worker.archive.schema import attempts, packed_logs, packs, runs
from launch_worker.database.database import Database
from launch_worker.errors import DamagedError
from launch_worker.logs.manifest import Manifest
from launch_worker.logs.packing import SmallLog, delete_pack, new_name, pack, pack_again
from launch_worker.logs.stored import StoredLogs
from launch_worker.store.logs import LogChunk
from launch_worker.store.store import Store

log = logging.getLogger("launch_worker.archive")

#: Runs of a pack, and bytes of output in it, from which on no run more is taken.
_RUNS = 2000
_BYTES = 64 << 20
#: Runs that are looked at together; attempts whose outputs are read from Redis at once; values in one list of a query.
_PAGE = 100
_AT_ONCE = 16
_MANY = 500
#: Seconds after which a pack that no process has come to the end of is deleted.
_UNFINISHED_S = 86400.0


@dataclass
class _Taken:
    """The runs that are taken into a pack, with their `ended_at`; and what was found beside small outputs."""

    runs: dict[str, int] = field(default_factory=dict)
    #: Those that Redis has no more.
    gone: set[str] = field(default_factory=set)
    #: Manifests without segments, of attempts that have a log of their own.
    own: list[Manifest] = field(default_factory=list)
    bytes: int = 0


class Packer:
    """Packs, and tidies packs up that have lost outputs. Each method may be cut short, and is called again."""

    def __init__(
        self,
        store: Store,
        database: Database,
        writing: Callable[[], AbstractContextManager[Connection]],
        opened: Callable[[], StoredLogs],
        *,
        after_s: float,
    ) -> None:
        """`after_s`: seconds after its end in which a run waits for others, to be packed with them."""
        self._store = store
        self._database = database
        self._writing = writing
        self._opened = opened
        self._after_us = int(after_s * 1e6)

    def pack(self) -> bool:
        """Pack the outputs of the next runs, and let Redis forget these. Returns whether there were some."""
        waiting = self._waiting()
        if not waiting:
            return False
        taken, name, manifests = _Taken(), new_name(), []
        logs = self._small_logs(waiting, taken)
        first = next(logs, None)
        if first is not None:
            with self._writing() as connection:
                begun = {"name": name, "begun_at": self._store.now_us(), "stored": 0, "changed": 1}
                connection.execute(insert(packs), begun)
            manifests = pack(self._opened(), name, chain([first], logs))
        kept = self._note_packed(taken, name if manifests else "", manifests)
        self._store.confirm_archived([run for run in kept if run[0] not in taken.gone])
        return True

    def tidy(self) -> bool:
        """Delete a pack of which nothing is left, or write it anew when most of it is gone. Returns whether it did."""
        c = packs.c
        is_over = or_(c.stored > 0, c.begun_at < self._store.now_us() - int(_UNFINISHED_S * 1e6))
        with self._database.reading() as connection:
            found = connection.execute(select(c.name, c.stored).where(c.changed == 1, is_over).limit(1)).first()
        if found is None:
            return False
        with self._writing() as connection:
            query = select(packed_logs).where(packed_logs.c.pack == found.name)
            left = [dict(row) for row in connection.execute(query).mappings()]
            if 2 * sum(row["stored"] for row in left) >= found.stored > 0:
                connection.execute(update(packs).where(c.name == found.name).values(changed=0))
                return True
        if left:
            self._pack_again(found.name, left)
            return True
        delete_pack(self._opened(), found.name)
        with self._writing() as connection:
            connection.execute(delete(packs).where(c.name == found.name))
        return True

    def _waiting(self) -> list[tuple[str, int]]:
        """The runs (id, `ended_at`) to pack now, the oldest first; none while a few young ones wait for others."""
        c = runs.c
        is_waiting = c.sealed.is_not(None) & c.packed.is_(None) & c.forgotten_at.is_(None)
        ended = select(c.ended_at).where(is_waiting).order_by(c.ended_at)
        with self._database.reading() as connection:
            oldest = connection.execute(ended.limit(1)).scalar()
            if oldest is None:
                return []
            is_due = oldest <= self._store.now_us() - self._after_us
            if not is_due and connection.execute(ended.offset(_RUNS - 1).limit(1)).scalar() is None:
                return []
            rows = connection.execute(select(c.id, c.sealed).where(is_waiting).order_by(c.ended_at).limit(_RUNS))
            return [(row.id, row.sealed) for row in rows]

    def _small_logs(self, waiting: Sequence[tuple[str, int]], taken: _Taken) -> Iterator[SmallLog]:
        """The outputs that Redis alone has, some runs at a time, until there are enough."""
        for start in range(0, len(waiting), _PAGE):
            page = waiting[start : start + _PAGE]
            c = attempts.c
            query = select(c.run_id, c.attempt).where(c.run_id.in_([run_id for run_id, _ in page]))
            with self._database.reading() as connection:
                places = [(row.run_id, row.attempt) for row in connection.execute(query.order_by(c.run_id, c.attempt))]
            taken.runs |= dict(page)
            for first in range(0, len(places), _AT_ONCE):
                some = places[first : first + _AT_ONCE]
                for (run_id, attempt), chunks in zip(some, self._store.logs_of(some), strict=True):
                    if chunks is None:
                        taken.gone.add(run_id)
                    elif chunks:
                        own = self._own_log(run_id, attempt, chunks)
                        if own is None:
                            taken.bytes += sum(len(chunk.data) for chunk in chunks)
                            yield SmallLog(run_id, attempt, 0, chunks)
                        else:
                            taken.own.append(own)
            if taken.bytes >= _BYTES:
                return

    def _own_log(self, run_id: str, attempt: int, chunks: Sequence[LogChunk]) -> Manifest | None:
        """The manifest, without segments, of an attempt whose worker has stored all that it printed; else None."""
        if chunks[0].offset == 0:
            return None  # Redis has all of it
        try:
            manifest = self._opened().manifest(run_id, attempt)
        except ValueError as error:
            log.warning("logs.damaged run=%s attempt=%d: %s", run_id, attempt, error)
            return None
        if manifest is None or manifest.end < chunks[-1].offset + len(chunks[-1].data):
            return None
        return replace(manifest, segments=())

    def _note_packed(self, taken: _Taken, name: str, manifests: Sequence[Manifest]) -> list[tuple[str, int]]:
        """Note where the outputs are. Returns the runs that have not changed meanwhile."""
        kept: dict[str, int] = {}
        with self._writing() as connection:
            for chunk in _chunks(list(taken.runs)):
                query = select(runs.c.id, runs.c.sealed).where(runs.c.id.in_(chunk), runs.c.forgotten_at.is_(None))
                found = {row.id: row.sealed for row in connection.execute(query)}
                kept |= {run_id: at for run_id, at in found.items() if at == taken.runs[run_id]}
            Applier(connection).unpack(list(kept))
            rows = [_row(manifest, name) for manifest in manifests] + [_row(manifest, "") for manifest in taken.own]
            if used := [row for row in rows if row["run_id"] in kept]:
                upsert(connection, packed_logs, used)
            if kept:
                marks = [{"of": run_id, "packed": 0 if run_id in taken.gone else at} for run_id, at in kept.items()]
                connection.execute(update(runs).where(runs.c.id == bindparam("of")), marks)
            if name:
                self._finish(connection, name, manifests, is_used=len(used) == len(rows))
        return list(kept.items())

    def _pack_again(self, old: str, left: Sequence[dict[str, Any]]) -> None:
        """Write a pack with what is left of another one."""
        name = new_name()
        with self._writing() as connection:
            begun = {"name": name, "begun_at": self._store.now_us(), "stored": 0, "changed": 1}
            connection.execute(insert(packs), begun)
        try:
            manifests = pack_again(self._opened(), name, (Manifest.from_json(row["manifest"].encode()) for row in left))
        except (DamagedError, ValueError) as error:
            log.error("logs.damaged pack=%s: %s", old, error)
            with self._writing() as connection:
                connection.execute(update(packs).where(packs.c.name == old).values(changed=0))
            return
        c = packed_logs.c
        is_it = (c.run_id == bindparam("of"), c.attempt == bindparam("number"), c.pack == old)
        rows = [_row(manifest, name) for manifest in manifests]
        with self._writing() as connection:
            moved = [{"of": row.pop("run_id"), "number": row.pop("attempt")} | row for row in rows]
            connection.execute(update(packed_logs).where(*is_it), moved)
            count = select(func.count()).where(c.pack == name)
            self._finish(connection, name, manifests, is_used=connection.execute(count).scalar() == len(rows))
            connection.execute(update(packs).where(packs.c.name == old).values(changed=1))

    def _finish(self, connection: Connection, name: str, manifests: Sequence[Manifest], *, is_used: bool) -> None:
        """Note that a pack is whole; one of which an output is not used is looked at again."""
        size = sum(_stored(manifest) for manifest in manifests)
        connection.execute(update(packs).where(packs.c.name == name).values(stored=size, changed=int(not is_used)))


def _row(manifest: Manifest, pack_name: str) -> dict[str, Any]:
    place = {"run_id": manifest.run_id, "attempt": manifest.attempt}
    return place | {"pack": pack_name, "stored": _stored(manifest), "manifest": manifest.to_json().decode()}


def _stored(manifest: Manifest) -> int:
    return sum(segment.stored for segment in manifest.segments)


def _chunks(values: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(values), _MANY):
        yield values[start : start + _MANY]
