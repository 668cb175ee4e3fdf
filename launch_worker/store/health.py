"""Finds signs of trouble, as held runs, damaged records and refused elements, and sets damaged keys aside."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from typing import Any

from launch_worker.model.run import Record
from launch_worker.model.states import RunState
from launch_worker.store import keys
from launch_worker.store.records import Records
from launch_worker.store.redis.client import text
from launch_worker.store.redis.connection import clear_errors
from launch_worker.untrusted.text import read_map

#: Lease deadline of a held run: later than any time in microseconds (LATER in lua/words/line.lua).
HELD_UNTIL = 9_000_000_000_000_000
_PAGE = 100


class Health(Records):
    """The part of `Store` that looks for trouble."""

    def held(self, *, limit: int = 20) -> list[Record]:
        """Held runs: their worker is gone, and their job may still live."""
        with clear_errors(self.url):
            ids = self._redis.zrangebyscore(keys.LEASES, HELD_UNTIL, "+inf", start=0, num=limit)
        return [record for record in self.records([text(run_id) for run_id in ids]) if record.is_held]

    def inconsistencies(self, *, limit: int) -> list[str]:
        """Where records and indexes of the newest `limit` runs disagree; a run that seems to is looked at twice."""
        with clear_errors(self.url):
            ids = [text(run_id) for run_id in self._redis.zrevrange(keys.RUNS, 0, limit - 1)]
        suspects = self._inconsistent(ids)
        return list(self._inconsistent(list(suspects)).values()) if suspects else []

    def _inconsistent(self, run_ids: Sequence[str]) -> dict[str, str]:
        wrong = {}
        for start in range(0, len(run_ids), _PAGE):
            page = run_ids[start : start + _PAGE]
            with clear_errors(self.url):
                pipe = self._redis.pipeline(transaction=False)
                for run_id in page:
                    pipe.hget(keys.run(run_id), "state")
                    pipe.zscore(keys.LEASES, run_id)
                    for state in RunState:
                        pipe.zscore(keys.runs_by("state", state.value), run_id)
                answers = pipe.execute(raise_on_error=False)
            step = 2 + len(RunState)
            for at, run_id in enumerate(page):
                state, lease, *listed = answers[at * step : (at + 1) * step]
                if state is None or isinstance(state, Exception):
                    wrong[run_id] = f"run {run_id} is listed, but its record is not there or damaged"
                    continue
                lists = [name.value for name, score in zip(RunState, listed, strict=True) if score is not None]
                if lists != [text(state)] or (lease is not None) != (text(state) == RunState.RUNNING.value):
                    wrong[run_id] = f"run {run_id} is {text(state)}, but its indexes say {lists} (lease: {lease})"
        return wrong

    def system(self) -> str:
        """The name of this launch system, by which its containers are known on a shared engine."""
        with clear_errors(self.url):
            name = self._redis.get(keys.SYSTEM)
            if name is None:
                self._redis.set(keys.SYSTEM, secrets.token_hex(6), nx=True)
                name = self._redis.get(keys.SYSTEM)
            return text(name)

    def has_system(self) -> bool:
        """Whether a worker of this system has ever made a container."""
        with clear_errors(self.url):
            return bool(self._redis.exists(keys.SYSTEM))

    def refuse(self, queue: str, reason: str, item: bytes) -> None:
        """Keep a malformed queue element for people to read."""
        self._call("refuse", queue, reason, item[:2000].decode("utf-8", "backslashreplace"))

    def refused(self, *, limit: int = 20) -> list[dict[str, Any]]:
        """The newest malformed queue elements that were kept."""
        with clear_errors(self.url):
            entries = self._redis.lrange(keys.REFUSED, 0, limit - 1)
        known = [read_map(entry) for entry in entries]
        return [item | {name: str(item.get(name, "?")) for name in ("queue", "reason")} for item in known]

    def heal(self, queues: Iterable[str]) -> None:
        """Rename keys of queues that are not lists, so that consumers can go on."""
        self._call("heal", *(name for queue in queues for name in keys.queue_lists(queue)))
