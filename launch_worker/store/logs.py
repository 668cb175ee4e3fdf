"""Keeps the output of attempts, and reads it."""

from __future__ import annotations

from dataclasses import dataclass

from launch_worker.store import keys
from launch_worker.store.redis.client import Client, text
from launch_worker.store.redis.connection import clear_errors


@dataclass(frozen=True)
class LogChunk:
    """A piece of output; `offset` is its first byte's number in the attempt's output."""

    entry: str
    offset: int
    data: bytes


class Logs(Client):
    """The part of `Store` that keeps output."""

    def append_log(
        self, run_id: str, attempt: int, data: bytes, *, offset: int, keep_from: str = "", missing: int = 0
    ) -> str:
        """Append output, and drop the entries before `keep_from` (all others for `*`).

        `missing` counts the bytes of the attempt that are kept nowhere. Returns the id of the first new entry, '' for
        a run that is gone.
        """
        return text(self._call("append_log", run_id, attempt, data, offset, keep_from, missing))

    def log(self, run_id: str, attempt: int, *, after: str = "-") -> list[LogChunk]:
        """The kept output of an attempt, in order, after the entry `after`."""
        start = after if after == "-" else f"({after}"
        with clear_errors(self.url):
            entries = self._redis.xrange(keys.log(run_id, attempt), min=start)
        return [_chunk(entry, fields) for entry, fields in entries]


def _chunk(entry: bytes, fields: dict[bytes, bytes]) -> LogChunk:
    return LogChunk(text(entry), int(fields[b"o"]), fields[b"d"])
