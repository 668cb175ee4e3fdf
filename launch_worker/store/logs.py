"""Keeps the output of attempts, and reads it."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from launch_worker.errors import UnknownRunError
from launch_worker.store import keys
from launch_worker.store.redis.client import Client, text
from launch_worker.store.redis.connection import clear_errors


class Times(NamedTuple):
    """When the parts of some output came."""

    #: Number of the first byte of each in the attempt's output, and milliseconds since 1970.
    offsets: Sequence[int]
    at_ms: Sequence[int]

    def at(self, offset: int) -> int:
        """The time of a byte."""
        return self.at_ms[max(0, bisect.bisect_right(self.offsets, offset) - 1)]


@dataclass(frozen=True)
class LogChunk:
    """A piece of output; `offset` is its first byte's number in the attempt's output."""

    entry: str
    offset: int
    data: bytes
    #: Number of line breaks before it; None where its worker did not know.
    line: int | None = None
    #: Times of its parts, where it was joined of several.
    times: Times | None = None

    @property
    def at_ms(self) -> int:
        """Milliseconds since 1970 at which Redis got it."""
        return int(self.entry.partition("-")[0])


#: Pieces of an output that are its end.
_END = 2


class Logs(Client):
    """The part of `Store` that keeps output."""

    def append_log(
        self,
        run_id: str,
        attempt: int,
        data: bytes,
        *,
        offset: int,
        line: int | None = None,
        keep_from: str = "",
        missing: int = 0,
        missing_lines: int | None = None,
        stored_at: str = "",
    ) -> str:
        """Append output, and drop the entries before `keep_from` (all others for `*`).

        `line` counts the line breaks before it; `missing` and `missing_lines` count the attempt's output that is not
        in Redis any more, and `stored_at` is the URL where that is. Returns the id of the first new entry. Raises
        UnknownRunError where Redis has no record, or has lost it.
        """
        known = ("" if line is None else line, keep_from, missing, "" if missing_lines is None else missing_lines)
        entry = text(self._call("append_log", run_id, attempt, data, offset, *known, stored_at))
        if not entry:
            raise UnknownRunError(f"Redis has no record of run {run_id}")
        return entry

    def log(self, run_id: str, attempt: int, *, after: str = "-") -> list[LogChunk]:
        """The kept output of an attempt, in order, after the entry `after`."""
        start = after if after == "-" else f"({after}"
        with clear_errors(self.url):
            entries = self._redis.xrange(keys.log(run_id, attempt), min=start)
        return [_chunk(entry, fields) for entry, fields in entries]

    def log_end(self, run_id: str, attempt: int) -> bytes:
        """The last pieces of an attempt's kept output."""
        with clear_errors(self.url):
            entries = self._redis.xrevrange(keys.log(run_id, attempt), count=_END)
        return b"".join(_chunk(entry, fields).data for entry, fields in reversed(entries))

    def heard_at(self, attempts: Sequence[tuple[str, int]]) -> list[int]:
        """When each of these attempts (run and number) last had output, in microseconds since 1970; 0 for never."""
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            for run_id, attempt in attempts:
                pipe.xrevrange(keys.log(run_id, attempt), count=1)
            answers = pipe.execute(raise_on_error=False) if attempts else []
        return [_chunk(*found[0]).at_ms * 1000 if isinstance(found, list) and found else 0 for found in answers]

    def logs_of(self, attempts: Sequence[tuple[str, int]]) -> list[list[LogChunk] | None]:
        """The kept output of each of these attempts (run and number); None where the run is not there any more."""
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            for run_id, attempt in attempts:
                # In this order: a run that is there afterwards had its output.
                pipe.xrange(keys.log(run_id, attempt))
                pipe.exists(keys.run(run_id))
            answers = pipe.execute(raise_on_error=False)
        return [
            [_chunk(entry, fields) for entry, fields in (entries if isinstance(entries, list) else ())]
            if is_there
            else None
            for entries, is_there in zip(answers[::2], answers[1::2], strict=True)
        ]


def _chunk(entry: bytes, fields: dict[bytes, bytes]) -> LogChunk:
    line = fields.get(b"l")
    return LogChunk(text(entry), int(fields[b"o"]), fields[b"d"], int(line) if line else None)
