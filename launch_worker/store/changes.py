"""Reads the change feed, and has it kept for those who read it."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launch_worker.model.checks import PRIORITIES
from launch_worker.model.states import RunState
from launch_worker.model.units import as_us
from launch_worker.store import keys
from launch_worker.store.redis.client import Client, named, pairs, text
from launch_worker.store.redis.connection import clear_errors
from launch_worker.untrusted.text import read_map, read_whole

#: Seconds for which the feed is kept without a reader's word.
LIFE_S = 86400.0
#: Seconds for which ended runs wait for an archive that does not renew its registration.
ARCHIVE_LIFE_S = 7 * 86400.0
#: Runs that one call of the `archived` script notes: Redis does nothing else during a call.
_AT_ONCE = 500
#: Place before the first change that is kept.
FIRST = "0-0"
#: Seconds of one wait for changes: shorter than a client waits for an answer.
_WAIT_S = 1.0
#: Facts in a line of a history.
_OF_LINE = ("state", "at", "attempt", "worker", "reason", "exit_code", "signal", "phase", "actor")
_PLACE = re.compile(r"\d{1,20}(-\d{1,20})?")


@dataclass(frozen=True)
class Change:
    """An entry of the feed."""

    #: Place in the feed; a later change has a larger one.
    id: str
    #: One of run, gone, act, sweep, schedule, queue, pool, worker, and feed: the feed begins, and tells of nothing
    #: that was before. A later release may add others.
    kind: str
    #: The entry's other fields that are not empty; what strangers wrote in them is not cleaned.
    fields: Mapping[str, str]


@dataclass(frozen=True)
class ArchiveState:
    """What Redis knows of an archive."""

    #: Name of the archive that is registered; '' for none.
    name: str
    #: URL, without its secrets, below which it deletes the logs of deleted runs; '' for nowhere.
    log_url: str
    #: The same for what the jobs of deleted runs left.
    output_url: str
    #: Ended runs that it has not confirmed.
    waiting: int
    #: Runs that were deleted before an archive had confirmed them.
    deleted: int
    #: Server time in microseconds at which the last of these was deleted; 0 for never.
    deleted_at: int


class Changes(Client):
    """The part of `Store` for readers of all that changes."""

    def want_changes(self, *, life_s: float = LIFE_S) -> bool:
        """Have changes kept for `life_s` from now, for a reader who calls this again in time.

        False where the feed begins only now: it does not tell what happened before, and a reader starts at FIRST.
        """
        return bool(self._call("follow", as_us(life_s)))

    def register_archive(
        self, name: str, *, log_url: str = "", output_url: str = "", life_s: float = ARCHIVE_LIFE_S
    ) -> None:
        """Have ended runs kept beyond their retention, for `life_s` from now, until this archive has confirmed them.

        `name` has no spaces; the URLs are for people: where it deletes the logs of deleted runs, and what their jobs
        left.
        """
        places = f"{log_url}\t{output_url}".rstrip()
        self._call("archived", f"{name} {places}".rstrip(), as_us(life_s))

    def confirm_archived(self, ended: Sequence[tuple[str, int]]) -> int:
        """Note that an archive has these runs (id, `ended_at`) with their ends: Redis may forget them in time.

        A run that has another end by now, or runs again, is left as it is. Returns how many runs were noted.
        """
        noted = 0
        for start in range(0, len(ended), _AT_ONCE):
            flat = [part for run in ended[start : start + _AT_ONCE] for part in run]
            noted += int(self._call("archived", "", 0, *flat))
        return noted

    def unarchived(self, *, skip: int = 0, limit: int = 1000) -> list[tuple[str, int]]:
        """Ended runs (id, `ended_at`) that no archive has confirmed, by their end, without the first `skip`."""
        with clear_errors(self.url):
            found = self._redis.zrange(keys.ENDED, skip, skip + limit - 1, withscores=True)
        return [(text(run_id), int(ended_at)) for run_id, ended_at in found]

    def archive_state(self) -> ArchiveState:
        """What Redis knows of an archive."""
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            pipe.get(keys.ARCHIVE)
            pipe.hmget(keys.COUNTERS, "unarchived_deleted", "unarchived_deleted_at")
            pipe.zcard(keys.ENDED)
            name, (deleted, deleted_at), waiting = pipe.execute()
        holder, _, places = text(name or "").partition(" ")
        log_url, _, output_url = places.partition("\t")
        return ArchiveState(holder, log_url, output_url, waiting, read_whole(deleted) or 0, read_whole(deleted_at) or 0)

    def changes(self, after: str = FIRST, *, count: int = 1000, block_s: float = 0.0) -> list[Change]:
        """The changes after this place, the oldest first and `count` at most; waits for the first for `block_s`.

        Changes that the feed no longer has are missing without a word: compare `after` with `oldest_change` first.
        """
        if not _PLACE.fullmatch(after):
            raise ValueError(f"no place in the feed: {after[:40]!r}")
        deadline = time.monotonic() + block_s
        while True:
            wait_s = min(_WAIT_S, deadline - time.monotonic())
            with clear_errors(self.url):
                block = max(1, int(wait_s * 1000)) if wait_s > 0 else None
                found: Any = self._redis.xread({keys.CHANGES: after}, count=count, block=block)
            entries = _entries(found)
            if entries or time.monotonic() >= deadline:
                return [_change(entry_id, fields) for entry_id, fields in entries]

    def changes_since(self, entry_id: str, *, count: int) -> list[Change] | None:
        """The changes after this entry, `count` at most; None where the feed does not have the entry any more."""
        with clear_errors(self.url):
            found: Any = self._redis.xrange(keys.CHANGES, min=entry_id, count=count + 1)
        entries = [_change(place, fields) for place, fields in found]
        return entries[1:] if entries and entries[0].id == entry_id else None

    def newest_change(self) -> str:
        """The place of the newest change; '' for none: nobody has wanted changes of late."""
        with clear_errors(self.url):
            found = self._redis.xrevrange(keys.CHANGES, count=1)
        return text(found[0][0]) if found else ""

    def places_of_runs(self, run_ids: Sequence[str]) -> dict[str, tuple[str, str]]:
        """The project and the queue of each of these runs that Redis has."""
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            for run_id in run_ids:
                pipe.hmget(keys.run(run_id), "project", "queue", "state")
            answers = pipe.execute(raise_on_error=False) if run_ids else []
        found = {}
        for run_id, values in zip(run_ids, answers, strict=True):
            if isinstance(values, list) and values[2]:
                found[run_id] = (text(values[0] or b""), text(values[1] or b""))
        return found

    def oldest_change(self) -> str:
        """The place of the oldest change that is kept; '' for none: nobody has wanted changes of late."""
        with clear_errors(self.url):
            found = self._redis.xrange(keys.CHANGES, count=1)
        return text(found[0][0]) if found else ""


def _entries(found: Any) -> list[Any]:
    """The entries in a reply of XREAD for one stream, by either protocol."""
    if not found:
        return []
    if isinstance(found, dict):
        [entries] = found.values()
        # By RESP3 they come within one more list.
        return list(entries[0]) if len(entries) == 1 and isinstance(entries[0], list) else list(entries)
    return list(found[0][1])


def _change(entry_id: Any, entry: Any) -> Change:
    said = {name: value for name, value in pairs(entry or {}).items() if value}
    if "new" in said:
        return Change(text(entry_id), "run", _created(said))
    if "run" in said:
        return Change(text(entry_id), "run", _moved(said))
    return Change(text(entry_id), said.pop("kind", ""), said)


def _created(said: dict[str, str]) -> dict[str, str]:
    """The facts of a creation, of which the entry has only what its spec does not have."""
    spec = _texts(read_map(said.get("spec", "")), ("queue", "project", "priority", "array", "sweep", "author"))
    priority = PRIORITIES.get(spec.pop("priority", "medium"), PRIORITIES["medium"])
    facts = {"id": said.pop("new"), "state": RunState.PENDING.value, "created_at": said.get("at", "")}
    author, user = said.pop("author", "") or spec.pop("author", ""), said.get("as", "")
    if author:
        facts["author"] = author
    # Schedules and sweeps, which make runs by themselves, give a reason.
    if not said.get("reason") and (said.get("user") or author):
        facts["actor"] = said.get("user") or named(author, user)
    return facts | {"queue": "default"} | spec | {"priority": str(priority)} | said


def _moved(said: dict[str, str]) -> dict[str, str]:
    """The facts of any other arrow, most of which are in the line of its run's history."""
    line = _texts(read_map(said.pop("line", "")), _OF_LINE)
    facts = {"id": said.pop("run")} | line
    state, at = line.get("state", ""), line.get("at", "")
    if state == RunState.RUNNING.value:
        facts["started_at"] = at
    elif at and state and state != RunState.PENDING.value:
        facts["ended_at"] = at
    return facts | said


def _texts(values: dict[str, Any], names: Sequence[str]) -> dict[str, str]:
    """The values with these names that are texts or numbers, as texts."""
    return {name: str(values[name]) for name in names if isinstance(values.get(name), str | int) and values[name] != ""}
