"""Reads groups, and writes what people ask of all runs of one: their end, or new attempts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from launch_worker.ids import GROUP_ID, RUN_ID
from launch_worker.model.checks import group_key, shown_group
from launch_worker.model.group import KINDS, GroupRecord
from launch_worker.model.units import as_us
from launch_worker.store import keys
from launch_worker.store.redis.client import Client, pairs, text
from launch_worker.store.redis.connection import clear_errors
from launch_worker.untrusted.text import read_map, read_whole

#: Runs of a group at which one call looks: Redis does nothing else during a call.
_AT_ONCE = 100
#: States of a sweep that is over.
_ENDED_SWEEP = ("FINISHED", "CANCELED")


class Groups(Client):
    """The part of `Store` for groups."""

    def group(self, group_id: str) -> GroupRecord | None:
        """The group's record now, by its id as people write it, or that of an array's first run; None for none."""
        return self.groups([group_id]).get(group_id)

    def groups(self, group_ids: Sequence[str]) -> dict[str, GroupRecord]:
        """The records of these groups now, by the ids as they were given, without those that are not there."""
        ids = [one for one in group_ids if GROUP_ID.fullmatch(one) or RUN_ID.fullmatch(one)]
        if not ids:
            return {}
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            for group_id in ids:
                pipe.hgetall(keys.group(group_key(group_id)))
                pipe.hgetall(keys.sweep(group_id))
            answers = iter(pipe.execute(raise_on_error=False))
        found = {}
        for group_id in ids:
            of_group, of_sweep = (
                pairs(said) if isinstance(said, dict | list) else {} for said in (next(answers), next(answers))
            )
            if _number(of_group, "size"):
                found[group_id] = _submitted(group_key(group_id), of_group)
            elif of_sweep.get("state"):
                found[group_id] = _sweep(group_id, of_sweep)
        return found

    def group_runs(self, group: GroupRecord, *, skip: int = 0, limit: int = 0) -> list[str]:
        """The ids of a group's runs in the order of their submission, `limit` at most (0: all); some may be deleted."""
        last = skip + limit - 1 if limit else -1
        with clear_errors(self.url):
            if group.kind == "sweep":
                found = self._redis.zrange(keys.sweep_part(group.key, "runs"), skip, last)
            elif group.kind == "array" and not self._redis.exists(keys.group_runs(group.key)):
                found = self._redis.zrange(keys.group_runs_before(group.key), skip, last)
            else:
                found = self._redis.lrange(keys.group_runs(group.key), skip, last)
        return [text(run_id) for run_id in found]

    def group_pages(self, group: GroupRecord, *, size: int = 1000) -> Iterator[list[str]]:
        """The same, a page at a time."""
        skip = 0
        while page := self.group_runs(group, skip=skip, limit=size):
            yield page
            skip += len(page)

    def cancel_group(
        self, group: GroupRecord, *, reason: str, grace_s: float | None = None, actor: str = ""
    ) -> tuple[int, int]:
        """Cancel all runs of a group that have not ended; an array or a bulk submission gets no more runs.

        Returns how many are Killed, and how many are to stop.
        """
        killed = asked = at = 0
        more = 1
        grace_us = "" if grace_s is None else as_us(grace_s)
        asked_by = self.named(actor)
        while more:
            gone, marked, more = self._call("cancel_group", group.key, grace_us, reason, at, _AT_ONCE, asked_by)
            killed, asked, at = killed + gone, asked + marked, at + _AT_ONCE
        return killed, asked

    def retry_group(
        self, group: GroupRecord, *, only_failed: bool, reason: str, actor: str = "", elsewhere: bool = False
    ) -> int:
        """A final state -> Pending for all runs of a group that have ended; `only_failed`: those that are not Finished.

        With `elsewhere` each goes to another worker than its last one, while there is one that may take it. Returns how
        many are Pending again.
        """
        done = at = 0
        before: str = ""
        more = 1
        asked_by = self.named(actor)
        while more:
            args = (group.key, before, int(only_failed), reason, at, _AT_ONCE, asked_by, int(elsewhere))
            count, until, more = self._call("retry_group", *args)
            done, at, before = done + count, at + _AT_ONCE, text(until)
        return done


def _submitted(key: str, fields: dict[str, str]) -> GroupRecord:
    made, size = _number(fields, "made"), _number(fields, "size")
    return GroupRecord(
        id=shown_group(key),
        kind="bulk" if GROUP_ID.fullmatch(key) else "array",
        key=key,
        size=size,
        counts=_counts(fields),
        missing=_number(fields, "missing"),
        gone=_number(fields, "gone"),
        name=fields.get("name", ""),
        queue=fields.get("queue", ""),
        project=fields.get("project", ""),
        is_mixed="is_mixed" in fields,
        author=fields.get("author", ""),
        created_at=_number(fields, "created_at"),
        ended_at=_number(fields, "ended_at") or None,
        halted=_number(fields, "halted"),
        is_open="made" in fields and "sealed" not in fields and made < size,
    )


def _sweep(sweep_id: str, fields: dict[str, str]) -> GroupRecord:
    return GroupRecord(
        id=sweep_id,
        kind="sweep",
        key=sweep_id,
        size=_number(fields, "made"),
        counts=_counts(fields),
        name=fields.get("name", ""),
        project=str(read_map(fields.get("given", "")).get("project") or ""),
        created_at=_number(fields, "created_at"),
        ended_at=_number(fields, "ended_at") or None,
        is_open=fields["state"] not in _ENDED_SWEEP,
    )


def _counts(fields: dict[str, str]) -> dict[str, int]:
    # A sweep that began in a release without counts may have a count below 0 until it is over.
    return {kind: max(0, _number(fields, kind)) for kind in KINDS}


def _number(fields: dict[str, str], name: str) -> int:
    return read_whole(fields.get(name)) or 0
