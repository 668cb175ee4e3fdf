"""Lists the runs that fit a filter: of Redis and, where there is one, of the archive, as one list."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from launch_worker.api.bookmarks import sort_key
from launch_worker.api.filters import Filter, Order
from launch_worker.api.redis_connection import RedisConnection
from launch_worker.errors import ArchiveError, ForbiddenError, InputError, SettingsError
from launch_worker.model.conditions import created_from, created_until, excluded, tests
from launch_worker.model.run import Record
from launch_worker.model.states import RunState
from launch_worker.model.units import format_duration

if TYPE_CHECKING:
    from launch_worker.archive.query import Found, Question
    from launch_worker.database.database import Database

#: Runs of one read where most of them do not fit, or are read to be sorted only.
_SCAN_PAGE = 500
#: Changes that the archive has not applied and that are taken from Redis apart at most; with more, all runs there are.
_MOST_NEWER = 5000
#: Seconds by which an archive is behind before it is worth a word.
_LAG_S = 10.0
_BY_AGE = Order("created_at", is_descending=True)


class Listing:
    """One list. Each run is in it once, with Redis' state where Redis has it."""

    def __init__(self, api: RedisConnection, wanted: Filter, order: Order, *, per_page: int) -> None:
        self._api = api
        self._filter = wanted
        self._order = order
        self._per_page = per_page
        #: Sentences for people about what was read, each once.
        self.notices: list[str] = []

    def records(self) -> Iterator[Record]:
        """Yield the runs in their order, read as they are taken."""
        past = self._past()
        if past is None:
            yield from self._of_redis()
        elif past.has_key(self._order):
            yield from past.merged(self._of_redis, self._order)
        else:
            yield from self._sorted(past.merged(self._of_redis, _BY_AGE), past)

    def count(self) -> int | None:
        """How many there are, where that is known without reading them."""
        past = self._past()
        if past is not None:
            return past.count()
        if self._filter.is_decided and len(self._filter.narrow) <= 1:
            return self._api.store.count_runs(self._filter.narrow)
        return None

    def counts(self, by: Sequence[str]) -> dict[tuple[str, ...], int]:
        """How many have which values of these fields. Raises InputError where that needs an archive."""
        past = self._past()
        if past is None:
            return self._counts_in_redis(by)
        return past.counts(by, self.records)

    def _counts_in_redis(self, by: Sequence[str]) -> dict[tuple[str, ...], int]:
        """The same by the indexes of Redis, which has one for each value of one field."""
        wanted = self._filter
        if len(by) == 1 and by[0] in ("state", "queue") and wanted.is_decided and set(wanted.narrow) <= set(by):
            values = [state.value for state in RunState] if by[0] == "state" else self._api.store.queue_names()
            asked = wanted.narrow.get(by[0], frozenset(values))
            counted = self._api.store.counts_by(by[0], sorted(asked))
            return {(value,): number for value, number in counted.items() if number}
        why = f": {self.notices[0]}" if self.notices else "; start one with: launch-worker archive run"
        raise InputError(
            "runs are counted by state or by queue, each alone and without another filter, where there is no archive; "
            f"all else needs one{why}"
        )

    def _past(self) -> _Past | None:
        """The archive; None where there is none, or it cannot be asked: a notice says why."""
        if not self._api.settings.has_archive:
            return None
        if any(test.word == "$regex" for test in tests(self._filter.tree)):
            self._say("a regular expression is looked for in Redis' runs only, not in the archive")
            return None
        try:
            database = self._api.archive()
            if database is None:
                return None
            newer, lag = _newer(self._api, database)
        except (ArchiveError, SettingsError) as error:
            self._say(f"only Redis' runs are listed: {error}")
            return None
        if lag:
            self._say(lag)
        return _Past(self._api, database, self._filter, newer, per_page=self._per_page)

    def _say(self, notice: str) -> None:
        if notice not in self.notices:
            self.notices.append(notice)

    def _of_redis(self, order: Order | None = None) -> Iterator[Record]:
        order = order or self._order
        if not order.is_by_creation:
            yield from self._sorted(self._of_redis(_BY_AGE), None)
            return
        is_sparse = not self._filter.is_decided or order is not self._order
        page = max(self._per_page, _SCAN_PAGE) if is_sparse else self._per_page
        since, until = created_from(self._filter.tree), created_until(self._filter.tree)
        begin_us = until if order.is_descending else since or None
        found = self._api.store.runs(
            self._filter.narrow, newest_first=order.is_descending, page=page, begin_us=begin_us, without=self._passed()
        )
        for record in found:
            if order.is_descending and record.created_at < since:
                return
            if self._filter.matches(record):
                yield record

    def _passed(self) -> set[str]:
        """The ids of the runs of groups that the filter leaves out: their records need not be read."""
        groups = self._api.store.groups(sorted(filter(None, excluded(self._filter.tree, "group"))))
        return {run_id for group in groups.values() for run_id in self._api.store.group_runs(group)}

    def _sorted(self, found: Iterable[Record], past: _Past | None) -> Iterator[Record]:
        """Sort by any value. Only values and ids are held; records are read again."""
        ids = [run_id for _, run_id in sorted((sort_key(self._order, record), record.id) for record in found)]
        for start in range(0, len(ids), self._per_page):
            batch = ids[start : start + self._per_page]
            known = {record.id: record for record in self._api.store.records(batch)}
            if past is not None:
                known = past.records([run_id for run_id in batch if run_id not in known]) | known
            yield from (known[run_id] for run_id in batch if run_id in known)


class _Past:
    """The archive's part of a list, and what is newer in Redis."""

    def __init__(
        self, api: RedisConnection, database: Database, wanted: Filter, newer: set[str] | None, *, per_page: int
    ) -> None:
        # Here SQLAlchemy is there for certain.
        from launch_worker.archive import past, query

        self._query = query
        self._lost = past.LOST
        self._store = api.store
        self._database = database
        self._filter = wanted
        #: Runs that changed since the archive last looked; None where that is not known: all in Redis are read there.
        self._newer = newer
        self._per_page = per_page

    def has_key(self, order: Order) -> bool:
        return self._query.has_key(order.path)

    def merged(self, of_redis: Any, order: Order) -> Iterator[Record]:
        """Both parts in this order, which is one of the database's."""
        if self._newer is None:
            newer = of_redis(order)
        else:
            newer = sorted(self._fresh(), key=lambda record: sort_key(order, record))
        yield from heapq.merge(newer, self._older(order), key=lambda record: sort_key(order, record))

    def count(self) -> int | None:
        if self._newer is None:
            return None
        counted = self._query.count(self._database, self._question(_BY_AGE), without=sorted(self._newer))
        return None if counted is None else counted + len(self._fresh())

    def counts(self, by: Sequence[str], every: Callable[[], Iterator[Record]]) -> dict[tuple[str, ...], int]:
        found = None
        if self._newer is not None:
            found = self._query.counts(self._database, self._question(_BY_AGE), by, without=sorted(self._newer))
        if found is None:
            return self._query.tally(every(), by)
        for values, number in self._query.tally(self._fresh(), by).items():
            found[values] = found.get(values, 0) + number
        return found

    def records(self, run_ids: Sequence[str]) -> dict[str, Record]:
        """These runs, as the archive has them."""
        if not run_ids:
            return {}
        return {run_id: self._shown(one) for run_id, one in self._query.records(self._database, run_ids).items()}

    def _fresh(self) -> list[Record]:
        return [record for record in self._store.records(sorted(self._newer or ())) if self._filter.matches(record)]

    def _older(self, order: Order) -> Iterator[Record]:
        """The archive's runs, without those that come from Redis."""
        seen: set[str] = set()
        for page in self._query.listed(self._database, self._question(order), page=self._per_page):
            for record in self._now(page):
                # A run whose value has changed meanwhile may come again.
                if record.id not in seen:
                    seen.add(record.id)
                    yield record

    def _now(self, page: list[Found]) -> list[Record]:
        if self._newer is None:
            ids = [one.record.id for one in page]
            there = self._store.known(ids)
            there |= set(self._store.deletions([run_id for run_id in ids if run_id not in there]))
            page = [one for one in page if one.record.id not in there]
            live: dict[str, Record] = {}
        else:
            page = [one for one in page if one.record.id not in self._newer]
            unsealed = [one.record.id for one in page if not one.is_sealed and not one.is_lost]
            live = {record.id: record for record in self._store.records(unsealed)}
        found = []
        for one in page:
            record = live.get(one.record.id, one.record)
            if one.is_sealed or self._filter.matches(record):
                found.append(record if record is not one.record else self._shown(one))
        return found

    def _shown(self, one: Found) -> Record:
        return replace(one.record, reason=self._lost) if one.is_lost else one.record

    def _question(self, order: Order) -> Question:
        return self._query.Question(self._filter.tree, self._filter.matches, order.path, order.is_descending)


def _newer(api: RedisConnection, database: Database) -> tuple[set[str] | None, str]:
    """The runs that the archive is behind with, None for not known; and a sentence, where that is worth one."""
    from launch_worker.archive.query import where_it_is

    now_us = api.store.now_us()
    position = where_it_is(database)
    if not position.applied_at:
        return None, "the archive is still empty; runs are read from Redis"
    changes = None
    try:
        if position.is_whole:
            changes = api.store.changes_since(position.feed_id, count=_MOST_NEWER + 1)
    except ForbiddenError:
        return None, "this user of Redis may not read the feed of changes; what Redis has is read run by run"
    behind_us = now_us - position.applied_at
    if changes is not None:
        behind_us = now_us - 1000 * int(changes[0].id.partition("-")[0]) if changes else 0
    lag = ""
    if (changes is None and position.is_whole) or behind_us > _LAG_S * 1e6:
        lag = f"the archive is {format_duration(max(0, behind_us // 1_000_000))} behind"
        lag += "; what Redis has is read from there"
    elif not position.is_whole:
        lag = "the archive is being compared with Redis, since it had missed changes; what Redis has is read from there"
    if changes is None or len(changes) > _MOST_NEWER:
        return None, lag
    return {change.fields.get("id", "") for change in changes if change.kind in ("run", "gone")}, lag
