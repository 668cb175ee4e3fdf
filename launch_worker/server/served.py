"""Acts on the launch system for one person: what that person may not see is not there, and what they may not do fails.

Every route that touches runs goes through here, so that the checks are made once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from launch_worker.api.filters import Filter, Order, parse_filter
from launch_worker.api.listing import Listing
from launch_worker.api.redis_runs import Opened
from launch_worker.api.redis_transport import RedisTransport
from launch_worker.errors import DeletedRunError, UnknownRunError
from launch_worker.model.group import GroupRecord
from launch_worker.model.log_pieces import Log
from launch_worker.model.run import Record, Transition
from launch_worker.model.usage import Measured
from launch_worker.people.roles import Act, visible
from launch_worker.server.asker import Asker
from launch_worker.server.shared import Shared
from launch_worker.store.answers import CancelWord
from launch_worker.submission.options import Ready
from launch_worker.untrusted.text import clean

#: Runs of a group that are read at once.
_PAGE = 500
#: Characters of what a client says of its person.
_MOST_AUTHOR = 200


class Served(RedisTransport):
    """The transport of one request."""

    def __init__(self, shared: Shared, asker: Asker, *, author: str = "", folder: str = "") -> None:
        # The server's own project and folder say nothing of the submitter's.
        super().__init__(settings=replace(shared.settings, project=""), archive=shared.database)
        # The declaration of the route decides what Redis lets it do: only one by `acting` writes.
        self._store = (shared.connection if asker.act is None else shared.acting).store
        self._shared = shared
        self._asker = asker
        self._sight = visible(asker.person)
        self._author = clean(author)[:_MOST_AUTHOR]
        self._folder = folder
        #: Projects of which it was checked that the person may submit to them.
        self._submits_to: set[str] = set()
        self.actor = asker.person.name
        self.user, self.groups = asker.person.name, asker.person.groups

    # -- submit ----------------------------------------------------------------------------------------------------

    def _completed(self, given: Mapping[str, Any]) -> dict[str, Any]:
        found = {"author": self._author or self.actor} | dict(given)
        if self._folder and found.get("cwd") is None and not (found.get("uri") or found.get("upload")):
            found["cwd"] = self._folder
        return found

    def resolve(self, given: Mapping[str, Any], *, fresh: bool = False) -> Ready:
        ready = super().resolve(given, fresh=fresh)
        project = ready.spec.project
        if project not in self._submits_to:
            self._asker.check(Act.SUBMIT, project=project)
            self._submits_to.add(project)
        return ready

    # -- see -------------------------------------------------------------------------------------------------------

    def _seen(self, record: Record) -> Record:
        """The record. Raises UnknownRunError, as if it were not there, for one that the person may not see."""
        if not self._sight.sees(record.project):
            raise self.store.unknown(record.id)
        return record

    def find(self, run_id: str) -> Record:
        return self._seen(super().find(run_id))

    def record(self, run_id: str) -> Record:
        return self._seen(super().record(run_id))

    def records(self, run_ids: Sequence[str]) -> list[Record]:
        return [record for record in super().records(run_ids) if self._sight.sees(record.project)]

    def shown(self, run_id: str) -> dict[str, Any]:
        shown = super().shown(run_id)
        if not self._sight.sees(shown["project"] or ""):
            raise self.store.unknown(run_id)
        return shown

    def transitions(self, run_id: str) -> list[Transition]:
        self.record(run_id)
        return super().transitions(run_id)

    def metrics(self, run_id: str) -> list[dict[str, Any]]:
        self._check_sight(run_id)
        return super().metrics(run_id)

    def measured(self, run_id: str, attempt: int | None, *, timeout_s: float) -> tuple[Record, Measured]:
        record, measured = super().measured(run_id, attempt, timeout_s=timeout_s)
        return self._seen(record), measured

    def _ask_usage(self, record: Record, *, timeout_s: float) -> str:
        # The question is published where orders are: whoever only reads may not publish there.
        return self._shared.acting.store.ask_usage(record, timeout_s=timeout_s)

    def read_file(self, run_id: str, name: str) -> bytes | None:
        self.record(run_id)
        return super().read_file(run_id, name)

    def open_output(self, run_id: str, attempt: int | None) -> Opened:
        self._check_sight(run_id)
        return super().open_output(run_id, attempt)

    def newest_output(self, run_id: str, attempt: int) -> Log:
        self.record(run_id)
        return super().newest_output(run_id, attempt)

    def listing(self, wanted: Filter, order: Order, *, per_page: int) -> Listing:
        return super().listing(self._visible(wanted), order, per_page=per_page)

    def in_line(self, wanted: Filter, *, queue: str, limit: int) -> list[tuple[Record, int | None]]:
        return super().in_line(self._visible(wanted), queue=queue, limit=limit)

    def _visible(self, wanted: Filter) -> Filter:
        sight = self._sight.as_filter()
        return parse_filter({"$and": [wanted.given, sight]}) if sight else wanted

    def _check_sight(self, run_id: str) -> None:
        """Raises UnknownRunError for a run that the person may not see, be it in Redis or in the archive only."""
        if self._sight.is_everything:
            return
        try:
            self.record(run_id)
        except DeletedRunError:
            raise
        except UnknownRunError:
            self.shown(run_id)

    # -- act -------------------------------------------------------------------------------------------------------

    def cancel(self, run_id: str, *, reason: str, grace_s: float | None) -> CancelWord:
        self._check_act(run_id, Act.ACT_ON_RUN)
        return super().cancel(run_id, reason=self._named(reason), grace_s=grace_s)

    def preempt(self, run_id: str, *, reason: str) -> None:
        self._check_act(run_id, Act.ACT_ON_RUN)
        super().preempt(run_id, reason=self._named(reason))

    def retry(self, run_id: str) -> None:
        self._check_act(run_id, Act.ACT_ON_RUN)
        super().retry(run_id)

    def confirm_ended(self, run_id: str) -> Record:
        self._check_act(run_id, Act.CONFIRM_RUN)
        return super().confirm_ended(run_id)

    def delete(self, run_id: str) -> None:
        self._check_act(run_id, Act.ACT_ON_RUN)
        super().delete(run_id)

    def group(self, group_id: str) -> GroupRecord | None:
        found = super().group(group_id)
        if found is None or self._sight.is_everything:
            return found
        # Its counts would tell of runs that the person may not see.
        return found if all(self._sight.sees(record.project) for record in self._members(found)) else None

    def cancel_group(self, group: GroupRecord, *, reason: str, grace_s: float | None) -> tuple[int, int]:
        self._check_group(group)
        return super().cancel_group(group, reason=self._named(reason), grace_s=grace_s)

    def retry_group(self, group: GroupRecord, *, only_failed: bool) -> int:
        self._check_group(group)
        return super().retry_group(group, only_failed=only_failed)

    def _check_group(self, group: GroupRecord) -> None:
        for record in self._members(group):
            self._asker.check(Act.ACT_ON_RUN, project=record.project, owner=record.user)

    def _members(self, group: GroupRecord) -> Iterator[Record]:
        """Its runs that are there, whoever may see them."""
        skip = 0
        while ids := self.store.group_runs(group, skip=skip, limit=_PAGE):
            yield from self.store.records(ids)
            skip += len(ids)

    def _check_act(self, run_id: str, act: Act) -> None:
        record = self.record(run_id)
        self._asker.check(act, project=record.project, owner=record.user)

    def _named(self, reason: str) -> str:
        """The reason with the name of the person who is logged in."""
        return f"{reason} ({self.actor})" if reason else ""
