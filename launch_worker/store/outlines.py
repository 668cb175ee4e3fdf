"""Reads every run in bounded pages, shortly or whole, for an archive that compares itself with Redis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from launch_worker.store import keys
from launch_worker.store.lists import Lists
from launch_worker.store.redis.client import pairs, text
from launch_worker.store.redis.connection import clear_errors
from launch_worker.store.usage import usage_by_attempt
from launch_worker.untrusted.text import read_map

_FIELDS = ("state", "attempt", "ended_at")


@dataclass(frozen=True)
class Outline:
    """As much of a run as tells whether a copy of it is up to date. A damaged number is 0."""

    id: str
    state: str
    attempt: int
    ended_at: int
    #: Number of lines in its history.
    lines: int


@dataclass(frozen=True)
class WholeRun:
    """A run's hash and the lines of its history, each read at one instant, one after the other."""

    id: str
    fields: dict[str, str]
    history: list[str]
    #: JSON of what its attempts used, as `Usages.usages` has it.
    usage: dict[int, str] = field(default_factory=dict)


class Outlines(Lists):
    """The part of `Store` that reads all runs for a copy of them."""

    def all_run_ids(self, *, page: int = 1000) -> Iterator[list[tuple[int, str]]]:
        """Yield creation time and id of all runs, the newest first, a page at a time as they are taken.

        A run that comes meanwhile may be missing.
        """
        ids = self._ids(keys.RUNS, newest_first=True, page=page)
        while batch := list(islice(ids, page)):
            yield batch

    def outlines_of(self, run_ids: Sequence[str]) -> list[Outline]:
        """These runs, without those that are not there or damaged."""
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            for run_id in run_ids:
                pipe.hmget(keys.run(run_id), *_FIELDS)
                pipe.llen(keys.history(run_id))
            answers = pipe.execute(raise_on_error=False)
        found = []
        for run_id, values, lines in zip(run_ids, answers[::2], answers[1::2], strict=True):
            if not isinstance(values, list):
                continue
            state, *numbers = (text(value or b"") for value in values)
            if state:
                attempt, ended_at = map(_count, numbers)
                count = lines if isinstance(lines, int) else 0
                found.append(Outline(run_id, state, attempt, ended_at, count))
        return found

    def whole_runs(self, run_ids: Sequence[str]) -> list[WholeRun]:
        """These runs with all that Redis has of them but their output, without those that are not there."""
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            for run_id in run_ids:
                pipe.hgetall(keys.run(run_id))
                pipe.lrange(keys.history(run_id), 0, -1)
            answers = pipe.execute(raise_on_error=False)
        hashes = _hashes(run_ids, answers[::2])
        usages = self.usages_beside(hashes)
        return [
            WholeRun(
                run_id,
                hashes[run_id],
                [text(line) for line in lines] if isinstance(lines, list) else [],
                usages.get(run_id, {}),
            )
            for run_id, lines in zip(run_ids, answers[1::2], strict=True)
            if run_id in hashes
        ]

    def hashes(self, run_ids: Sequence[str]) -> dict[str, dict[str, str]]:
        """The fields of these runs' records, without those that are not there."""
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            for run_id in run_ids:
                pipe.hgetall(keys.run(run_id))
            answers = pipe.execute(raise_on_error=False)
        return _hashes(run_ids, answers)

    def usages_beside(self, hashes: Mapping[str, Mapping[str, str]]) -> dict[str, dict[int, str]]:
        """What is kept beside these runs' records of what their attempts used, without those of which nothing is.

        A run in its first attempt of which the record has nothing has nothing beside it either, and costs nothing.
        """
        run_ids = [run_id for run_id, has in hashes.items() if has.get("usage") or has.get("attempt", "1") != "1"]
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            for run_id in run_ids:
                pipe.hgetall(keys.usage(run_id))
            answers = pipe.execute(raise_on_error=False)
        return {
            run_id: found for run_id, used in zip(run_ids, answers, strict=True) if (found := usage_by_attempt(used))
        }

    def deletions(self, run_ids: Sequence[str]) -> dict[str, tuple[int, str]]:
        """Which of these runs a person deleted, as far as Redis remembers: the time, and who."""
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            for run_id in run_ids:
                pipe.get(keys.deleted(run_id))
            marks: list[Any] = pipe.execute(raise_on_error=False)
        found = {}
        for run_id, mark in zip(run_ids, marks, strict=True):
            if isinstance(mark, bytes | str):
                said = read_map(mark)
                at = str(said.get("at", ""))
                found[run_id] = (_count(at), str(said.get("by", "")))
        return found


def _hashes(run_ids: Sequence[str], answers: Sequence[Any]) -> dict[str, dict[str, str]]:
    return {
        run_id: _texts(fields)
        for run_id, fields in zip(run_ids, answers, strict=True)
        if fields and not isinstance(fields, Exception)
    }


def _texts(fields: Any) -> dict[str, str]:
    """The same as `pairs`, for replies of redis-py and without a call for each text: a walk reads millions."""
    if not isinstance(fields, dict):
        return pairs(fields)
    return {str(name, "utf-8", "replace"): str(value, "utf-8", "replace") for name, value in fields.items()}


def _count(digits: str) -> int:
    return int(digits) if digits.isdecimal() and len(digits) <= 18 else 0
