"""Writes what jobs say of themselves: metrics, summary, messages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from launch_worker.errors import UnknownRunError
from launch_worker.store import keys
from launch_worker.store.answers import TellWord
from launch_worker.store.redis.client import Client, text
from launch_worker.store.redis.connection import clear_errors
from launch_worker.untrusted.text import read_map

#: Bytes of a run's summary as JSON; a value that would make it longer is left out.
MAX_SUMMARY_BYTES = 64 << 10
#: Attempts to merge a summary that other calls change meanwhile.
_MERGES = 20


@dataclass(frozen=True)
class TalkSoFar:
    """How far the talk of an attempt's job has been read, by whatever workers it has had."""

    #: Bytes of talk that were read; 0 when another attempt wrote last.
    end: int
    summary: dict[str, Any]
    #: Step of the last row of metrics; -1 for none.
    step: int


class Talk(Client):
    """The part of `Store` for the talk of jobs."""

    def tell(
        self,
        record_id: str,
        token: int,
        summary: dict[str, Any] | None,
        metrics: Sequence[str],
        message: str,
        *,
        end: int = 0,
        preempting: bool = False,
    ) -> bool:
        """Running (or Crashed): merge into the summary, append rows of metrics (JSON texts), set the reason.

        False for an attempt that was superseded, or is over. `end` counts the bytes of talk up to here; a call with
        nothing beyond the known end changes nothing, so a call can be repeated. `preempting`: the run counts as
        preempted, should its worker vanish. Raises UnknownRunError where Redis has no record, or has lost it.
        """
        known, merged = "", ""
        for _ in range(_MERGES):
            if summary:
                with clear_errors(self.url):
                    known = text(self._redis.hget(keys.run(record_id), "summary") or "")
                merged = merge_summary(known, summary)
            what = (end, known, merged, message, int(preempting), *metrics[-1000:])
            answer = cast(TellWord, text(self._call("tell", record_id, token, *what)))
            if answer == "unknown":
                raise UnknownRunError(f"Redis has no record of run {record_id}")
            if answer != "stale":
                return answer == "done"
        return False

    def talk_so_far(self, record_id: str, token: int) -> TalkSoFar:
        """How far the talk of this attempt has been read."""
        with clear_errors(self.url):
            # In no transaction, in which a full Redis 7.0 refuses reads too. `tell` writes both, and the row is read
            # first: a row that is written between the two is not read again from the talk.
            pipe = self._redis.pipeline(transaction=False)
            pipe.lindex(keys.metrics(record_id), -1)
            pipe.hmget(keys.run(record_id), "heard", "summary")
            row, (position, summary) = pipe.execute()
        of, _, end = text(position or b"").partition(":")
        step = read_map(text(row or b"")).get("_step")
        if of != str(token) or not end.isdigit():
            return TalkSoFar(0, {}, step if isinstance(step, int) else -1)
        return TalkSoFar(int(end), read_map(text(summary or b"")), step if isinstance(step, int) else -1)

    def metrics(self, run_id: str) -> list[dict[str, Any]]:
        """The newest rows of metrics that the job wrote, the oldest first."""
        with clear_errors(self.url):
            lines = self._redis.lrange(keys.metrics(run_id), 0, -1)
        return [row for line in lines if (row := read_map(line))]


def merge_summary(known: str, new: dict[str, Any]) -> str:
    """The known summary with the new values, as JSON; a value that would make it too long is left out."""
    merged = read_map(known)
    size = len(json.dumps(merged))
    for name, value in new.items():
        before = len(json.dumps({name: merged[name]})) if name in merged else 0
        grown = size - before + len(json.dumps({name: value}))
        if grown <= MAX_SUMMARY_BYTES:
            merged[name], size = value, grown
    return json.dumps(merged)
