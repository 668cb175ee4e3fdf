"""Finds what a person means by a word, in Redis and, where there is one, in the archive."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from launch_worker.api.filters import NEWEST_FIRST, Filter, parse_filter, parse_order
from launch_worker.api.naming import INDEXED, LAST, LEAST_PREFIX, MOST_LOOKED, MOST_TOLD, Meant, Named, fits, things_of
from launch_worker.api.redis_connection import RedisConnection
from launch_worker.errors import ArchiveError, SettingsError
from launch_worker.model.group import GroupRecord
from launch_worker.model.label import Label
from launch_worker.model.run import Record
from launch_worker.model.sweep import STATE_WORDS, SweepRecord
from launch_worker.untrusted.text import read_map

if TYPE_CHECKING:
    from launch_worker.database.database import Database

#: Groups of runs of one name, and sweeps, that are looked at; and runs that the archive is asked for.
_MOST_GROUPS, _MOST_SWEEPS, _MOST_PAST = 50, 1000, 500


class RedisNames(RedisConnection):
    """The part of the transport for names. Those who serve others say in its last methods what these may see."""

    def meant_by(self, word: str) -> Meant:
        if word == LAST:
            return self._last()
        found, is_cut = self.store.labels_by(partial(fits, word), most=MOST_LOOKED)
        labels = {label.id: label for label in found if self.may_see(label.project)}
        if is_cut or not labels:
            past = self._past_labels(word)
            is_cut = is_cut and past is None
            labels |= {label.id: label for label in past or () if label.id not in labels}
        newest = sorted(labels.values(), key=lambda label: label.created_at, reverse=True)
        groups = list(dict.fromkeys(label.group for label in newest if label.group))[:_MOST_GROUPS]
        things = things_of(word, newest, self.seen_groups(groups) if groups else {}, self._sweeps_like(word))
        if not things and (indexed := INDEXED.fullmatch(word)):
            meant = self.meant_by(indexed[1])
            things, is_cut = self._of_arrays(meant, int(indexed[2])), meant.is_cut
        return Meant(tuple(things[:MOST_TOLD]), len(things), is_cut)

    def _of_arrays(self, meant: Meant, index: int) -> list[Named]:
        """The runs of this index of the arrays that a word means."""
        arrays = [one.id for one in meant.things if one.kind == "array"]
        return [
            Named(record.id, "run", f"{record.name}[{index}]", record.state.value, record.created_at)
            for group in self.store.groups(arrays).values()
            for page in self.store.group_pages(group)
            for record in self.store.records(page)
            if read_map(record.spec).get("array_index") == index
        ]

    def _last(self) -> Meant:
        """The last run, array, bulk submission or sweep that this user submitted."""
        run_id = self.store.newest_by(author=self.actor, user=self.user, most=MOST_LOOKED)
        found = []
        if run_id:
            found = [self._whole(record) for record in self.store.records([run_id]) if self.may_see(record.project)]
        for sweep in self._sweeps():
            whose = sweep.user if self.user else str(read_map(sweep.given).get("author") or "")
            if whose == (self.user or self.actor):
                found.append(_of_sweep(sweep))
                break
        newest = sorted(found, key=lambda one: one.created_at)[-1:]
        return Meant(tuple(newest), len(newest), is_cut=not found and self.store.count_runs({}) > MOST_LOOKED)

    def _whole(self, record: Record) -> Named:
        """The array or bulk submission of which it is a run, or that run."""
        group = self.seen_groups([record.group]).get(record.group) if record.group else None
        if group is not None:
            return Named.of_group(group)
        return Named(record.id, "run", record.name, record.state.value, record.created_at)

    def _past_labels(self, word: str) -> list[Label] | None:
        """Runs of the archive that have this name or whose ids begin so; None where there is none, or it is away."""
        try:
            database = self.archive()
            if database is None:
                return None
            labels = self._ask(database, {"name": word}, NEWEST_FIRST)
            if len(word) >= LEAST_PREFIX and word.isalnum() and word.isascii():
                labels += self._ask(database, {"id": {"$gte": word, "$lt": f"{word}~"}}, "-id")
        except (ArchiveError, SettingsError):
            return None
        # Redis knows more of those that it has.
        there = {record.id: record for record in self.store.records([label.id for label in labels])}
        return [_label(there[label.id]) if label.id in there else label for label in labels]

    def _ask(self, database: Database, given: dict[str, object], order: str) -> list[Label]:
        from launch_worker.archive.query import Question, listed

        wanted, by = self.visible(parse_filter(given)), parse_order(order)
        question = Question(wanted.tree, wanted.matches, by.path, by.is_descending)
        return [_label(one.record) for one in next(listed(database, question, page=_MOST_PAST))]

    def _sweeps_like(self, word: str) -> list[Named]:
        return [
            _of_sweep(sweep)
            for sweep in self._sweeps()
            if sweep.name == word or (len(word) >= LEAST_PREFIX and sweep.id.startswith(word))
        ]

    def _sweeps(self) -> Iterable[SweepRecord]:
        """The newest sweeps."""
        ids = self.store.sweep_ids()[:_MOST_SWEEPS]
        return (sweep for sweep in (self.store.sweeps_of(ids) if ids else ()) if self.may_see(sweep.project))

    # -- what those who ask may see --------------------------------------------------------------------------------

    def may_see(self, project: str) -> bool:
        """Whether those who ask may know of runs of this project."""
        return True

    def visible(self, wanted: Filter) -> Filter:
        """The filter, for the runs that those who ask may know of."""
        return wanted

    def seen_groups(self, group_ids: Sequence[str]) -> dict[str, GroupRecord]:
        """These groups, without those of which they may not know."""
        return self.store.groups(group_ids)


def _label(record: Record) -> Label:
    return Label(record.id, record.name, record.state.value, record.project, record.group, record.created_at)


def _of_sweep(sweep: SweepRecord) -> Named:
    return Named(sweep.id, "sweep", sweep.name, STATE_WORDS.get(sweep.state, sweep.state), sweep.created_at)
