"""Acts on the launch system for one person: what that person may not see is not there, and what they may not do fails.

Every route that touches runs goes through here, so that the checks are made once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, BinaryIO

from launch_worker.api.filters import Filter, Order, parse_filter
from launch_worker.api.listing import Listing
from launch_worker.api.naming import Meant
from launch_worker.api.redis_runs import LINE_LIMIT, Opened
from launch_worker.api.redis_transport import RedisTransport
from launch_worker.code.storage import storage_of
from launch_worker.errors import (
    DeletedRunError,
    InputError,
    LaunchError,
    NotAllowedError,
    NotFoundError,
    UnknownRunError,
)
from launch_worker.ids import RUN_ID, unique_run_id
from launch_worker.model.group import GroupRecord
from launch_worker.model.history import Transition
from launch_worker.model.log_pieces import Log
from launch_worker.model.many import Done, ManyAct
from launch_worker.model.run import Record, unknown_run
from launch_worker.model.run_files import KeptFile, RunFiles
from launch_worker.model.spec import RunSpec
from launch_worker.model.states import RunState
from launch_worker.model.usage import Measured
from launch_worker.people.roles import Act, may, visible
from launch_worker.server.asker import Asker
from launch_worker.server.shared import Shared
from launch_worker.server.sight import Seen
from launch_worker.store.answers import CancelWord
from launch_worker.store.logs import LogChunk
from launch_worker.store.submit import UNSEEN, New
from launch_worker.submission.options import UNSENT, Item, Ready
from launch_worker.untrusted.text import clean

#: Runs of a group that are read at once.
_PAGE = 500
#: Characters of what a client says of its person.
_MOST_AUTHOR = 200


def chosen(run_id: str) -> str:
    """The key in place of an id that a client chose, no key of a person: another's run could have that id.

    Who does not see all projects gets an id made of it, so that no answer tells whether it is taken.
    """
    return f"\0{run_id}"


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
        #: Whether each run or group for which runs of the request wait is seen.
        self._waits: dict[str, bool] = {}
        self.actor = asker.person.name
        self.user, self.groups = asker.person.name, asker.person.groups

    # -- submit ----------------------------------------------------------------------------------------------------

    def _completed(self, given: Mapping[str, Any]) -> dict[str, Any]:
        found = {"author": self._author or self.actor} | dict(given)
        if self._folder and found.get("cwd") is None and not (found.get("uri") or found.get("upload")):
            found["cwd"] = self._folder
        return found

    def _runs_of(self, items: Iterable[Item], singles: int | None) -> Iterator[tuple[New, Item]]:
        runs = super()._runs_of(items, singles)
        for first in runs:
            # The audit has the run, or the group, before anything is sent.
            group = first[0].group
            if group is None:
                self._asker.begin(first[0].run_id)
            else:
                self._asker.begin(group.id, runs=group.size)
            yield first
            yield from runs

    def resolve(self, given: Mapping[str, Any], *, fresh: bool = False) -> Ready:
        ready = super().resolve(given, fresh=fresh)
        project = ready.spec.project
        if project not in self._submits_to:
            self._asker.check(Act.SUBMIT, project=project)
            self._submits_to.add(project)
        if ready.spec.priority == "critical":
            self._check_critical(ready.spec)
        upload = ready.spec.upload
        if upload not in ("", UNSENT) and not self._sight.is_everything and not self._has_sent(upload):
            # The job would read what others have sent.
            raise InputError(
                f"upload {upload[:12]} was not sent by {self.actor}; send it first with: PUT /api/v1/uploads/SHA256"
            )
        return ready

    def _check_critical(self, spec: RunSpec) -> None:
        """Raises NotAllowedError for who would jump the line of others, where no admin has said who may."""
        if may(self._asker.person, Act.ACT_ON_RUN, project=spec.project):
            return
        try:
            queue = super().queue(spec.queue)
            admits = queue.admits or (super().pool(queue.pool).admits if queue.pool else {})
        except NotFoundError:
            admits = {}
        if not admits:
            raise NotAllowedError(
                "priority critical is for operators, where an admin has not said who may give it: "
                f"launch-worker queues set {spec.queue} --admit GROUP=critical --admit '*=high'"
            )

    def renew_upload(self, sha256: str) -> bool:
        """Keep an upload from now on for as long as a new one. Whether it is there, as far as the person may know."""
        if not (self._sight.is_everything or self._has_sent(sha256)):
            return False
        is_there = storage_of(self.settings, self._shared.acting.store).renew(sha256)
        if is_there:
            self._note_sender(sha256)
        return is_there

    def keep_upload(self, sha256: str, archive: BinaryIO) -> None:
        """Keep an upload that the person sends."""
        storage_of(self.settings, self._shared.acting.store).put(sha256, archive)
        self._note_sender(sha256)

    def _note_sender(self, sha256: str) -> None:
        self._shared.acting.store.note_sender(sha256, self.actor, keep_s=self.settings.retention_s)

    def _has_sent(self, sha256: str) -> bool:
        return self.store.has_sent(sha256, self.actor)

    def _id_of(self, item: Item, ready: Ready, index: int | None = None, *, room: int = 1) -> str:
        if item.run_id and not self._sight.is_everything:
            return self._id_by(chosen(item.run_id), ready)
        return super()._id_of(item, ready, index, room=room)

    def sweep_id(self, wanted: str, project: str) -> str:
        """The id of a sweep for which a client wants this one."""
        if self._sight.is_everything:
            return wanted
        return unique_run_id(chosen(wanted), user=self.user, project=project)

    def _waits_of(self, spec: RunSpec) -> Mapping[str, str] | None:
        waits = super()._waits_of(spec)
        if not (spec.after or spec.inputs) or self._sight.is_everything:
            return waits
        known = spec.waits if waits is None else waits
        return {other: wish if self._may_wait_for(other) else UNSEEN for other, wish in known.items()}

    def _is_forgotten(self, run_id: str) -> bool:
        if not super()._is_forgotten(run_id):
            return False
        try:
            self._check_sight(run_id)
        except UnknownRunError:
            return False
        return True

    def _may_wait_for(self, other: str) -> bool:
        """Whether a run or group is seen, or not there at all."""
        if other not in self._waits:
            record = self.store.peek(other) if RUN_ID.fullmatch(other) else None
            is_seen = record is None or self._sight.sees(record.project)
            self._waits[other] = is_seen and (self.store.group(other) is None or self.group(other) is not None)
        return self._waits[other]

    # -- see -------------------------------------------------------------------------------------------------------

    def _seen(self, record: Record) -> Record:
        """The record. Raises UnknownRunError, as if it had never been there, for one that the person may not see."""
        if not self._sight.sees(record.project):
            raise unknown_run(record.id)
        return record

    @contextmanager
    def _looking_for(self, run_id: str) -> Iterator[None]:
        """Within it a deleted run that the person might not see raises the error of one that was never there."""
        try:
            yield
        except DeletedRunError as deleted:
            is_seen = self._sight.is_everything or (deleted.project is not None and self._sight.sees(deleted.project))
            if not is_seen:
                raise unknown_run(run_id) from None
            raise

    def find(self, run_id: str) -> Record:
        with self._looking_for(run_id):
            return self._seen(super().find(run_id))

    def record(self, run_id: str) -> Record:
        with self._looking_for(run_id):
            return self._seen(super().record(run_id))

    def records(self, run_ids: Sequence[str]) -> list[Record]:
        return [record for record in super().records(run_ids) if self._sight.sees(record.project)]

    def shown(self, run_id: str) -> dict[str, Any]:
        with self._looking_for(run_id):
            shown = super().shown(run_id)
        if not self._sight.sees(shown["project"] or ""):
            raise unknown_run(run_id)
        return shown

    def transitions(self, run_id: str) -> list[Transition]:
        self.record(run_id)
        return super().transitions(run_id)

    def metrics(self, run_id: str) -> list[dict[str, Any]]:
        self._check_sight(run_id)
        return super().metrics(run_id)

    def measured(self, run_id: str, attempt: int | None, *, timeout_s: float) -> tuple[Record, Measured]:
        self._check_sight(run_id)
        return super().measured(run_id, attempt, timeout_s=timeout_s)

    def _ask_usage(self, record: Record, *, timeout_s: float) -> str:
        # The question is published where orders are: whoever only reads may not publish there.
        return self._shared.acting.store.ask_usage(record, timeout_s=timeout_s)

    def files(self, run_id: str, attempt: int | None) -> RunFiles:
        self._check_sight(run_id)
        return super().files(run_id, attempt)

    def file(self, run_id: str, attempt: int | None, path: str) -> KeptFile:
        self._check_sight(run_id)
        return super().file(run_id, attempt, path)

    def read_file(self, run_id: str, file: KeptFile, start: int, end: int | None = None) -> Iterator[bytes]:
        self._check_sight(run_id)
        return super().read_file(run_id, file, start, end)

    def open_output(
        self, run_id: str, attempt: int | None, *, read_live: Callable[[Record, int], Sequence[LogChunk]] | None = None
    ) -> Opened:
        self._check_sight(run_id)
        return super().open_output(run_id, attempt, read_live=read_live)

    def open_lines(self, run_id: str, attempt: int | None) -> tuple[Opened, str]:
        """The output of an attempt for a look at its lines, and the last entry of Redis that is in it."""
        entry = "-"

        def read(record: Record, number: int) -> Sequence[LogChunk]:
            nonlocal entry
            known = self._shared.live_logs.read(self.store, record, number)
            entry = known.entry
            return known.chunks

        return self.open_output(run_id, attempt, read_live=read), entry

    def newest_output(self, run_id: str, attempt: int) -> Log:
        self.record(run_id)
        return super().newest_output(run_id, attempt)

    def listing(self, wanted: Filter, order: Order, *, per_page: int) -> Listing:
        return super().listing(self.visible(wanted), order, per_page=per_page)

    def in_line(self, wanted: Filter, *, queue: str, limit: int) -> list[tuple[Record, int | None]]:
        if self._sight.is_everything:
            return super().in_line(wanted, queue=queue, limit=limit)
        # Places count the runs that are seen: Redis' own would tell how many others there are.
        found: list[tuple[Record, int | None]] = []
        for name in [queue] if queue else sorted(self.store.queues()):
            place = 0
            for record in self.store.line(name, limit=LINE_LIMIT):
                if record.state is RunState.PENDING and self._sight.sees(record.project):
                    place += 1
                    if wanted.matches(record):
                        found.append((record, place if self.store.place_in_line(record) else None))
                if len(found) == limit:
                    return found
        return found

    def workers_around(self) -> list[dict[str, Any]]:
        return Seen(self._shared, self._asker.person).workers(super().workers_around())

    def place_in_line(self, record: Record) -> int | None:
        """The place of a Pending run among those that are seen; None for one that is not ready, or far behind."""
        place = super().place_in_line(record)
        if place is None or self._sight.is_everything:
            return place
        before = 0
        for other in self.store.line(record.queue, limit=LINE_LIMIT):
            before += other.state is RunState.PENDING and self._sight.sees(other.project)
            if other.id == record.id:
                return before
        return None

    def meant_by(self, word: str) -> Meant:
        meant = super().meant_by(word)
        # Whether there are so many runs is told to those only who see all of them.
        return meant if self._sight.is_everything else meant._replace(is_cut=True)

    def may_see(self, project: str) -> bool:
        return self._sight.sees(project)

    def seen_groups(self, group_ids: Sequence[str]) -> dict[str, GroupRecord]:
        if self._sight.is_everything:
            return super().seen_groups(group_ids)
        return {group_id: found for group_id in group_ids if (found := self.group(group_id)) is not None}

    def visible(self, wanted: Filter) -> Filter:
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

    def retry(self, run_id: str, *, from_scratch: bool = False, not_on_same_worker: bool = False) -> None:
        self._check_act(run_id, Act.ACT_ON_RUN)
        super().retry(run_id, from_scratch=from_scratch, not_on_same_worker=not_on_same_worker)

    def confirm_ended(self, run_id: str) -> Record:
        self._check_act(run_id, Act.CONFIRM_RUN)
        return super().confirm_ended(run_id)

    def delete(self, run_id: str) -> None:
        self._check_act(run_id, Act.ACT_ON_RUN)
        super().delete(run_id)

    def act_on_many(
        self, act: ManyAct, run_ids: Sequence[str], *, reason: str, grace_s: float | None
    ) -> Iterator[Done]:
        known = {record.id: record for record in self.records(run_ids)}
        refusals: dict[str, LaunchError] = {}
        for run_id in run_ids:
            try:
                # One that is not seen, or is not there, is looked up by itself: it may be deleted.
                record = known.get(run_id) or self.record(run_id)
                self._asker.check(Act.ACT_ON_RUN, project=record.project, owner=record.user)
            except (UnknownRunError, NotAllowedError) as error:
                refusals[run_id] = error
        may = [run_id for run_id in run_ids if run_id not in refusals]
        yield from (Done(run_id, "", error) for run_id, error in refusals.items())
        yield from super().act_on_many(act, may, reason=self._named(reason), grace_s=grace_s)

    def group(self, group_id: str) -> GroupRecord | None:
        found = super().group(group_id)
        if found is None or self._sight.is_everything:
            return found
        if not self._sight.sees(found.project):
            return None
        # Its counts would tell of runs that the person may not see; those that are gone may have been such.
        if found.is_mixed and (found.gone or not all(self._sight.sees(one.project) for one in self._members(found))):
            return None
        return found

    def known_groups(self, group_ids: Sequence[str]) -> dict[str, GroupRecord]:
        """These groups, by id; none where the person does not see everything: a count may tell of hidden runs."""
        return super().known_groups(group_ids) if self._sight.is_everything else {}

    def cancel_group(self, group: GroupRecord, *, reason: str, grace_s: float | None) -> tuple[int, int]:
        self._check_group(group)
        return super().cancel_group(group, reason=self._named(reason), grace_s=grace_s)

    def retry_group(self, group: GroupRecord, *, only_failed: bool, not_on_same_worker: bool = False) -> int:
        self._check_group(group)
        return super().retry_group(group, only_failed=only_failed, not_on_same_worker=not_on_same_worker)

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
