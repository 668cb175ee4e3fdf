"""Decides which maintenance passes are due, and makes the arrows that only passes make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from launch_worker.model.run import Record
from launch_worker.model.units import as_us
from launch_worker.model.worker import FreeCapacity
from launch_worker.store import keys
from launch_worker.store.records import record_of
from launch_worker.store.redis.client import text
from launch_worker.store.redis.connection import clear_errors
from launch_worker.store.server import Server
from launch_worker.untrusted.text import read_whole

#: Calls of `publish_lost` in one pass; each looks at 500 workers.
_LOOKS_FOR_LOST = 100
#: Fields that are read of a stale run: those that decide what comes next.
_OF_STALE = ("state", "token", "attempt", "first_attempt", "worker", "spec", "yields", "preemptions", "retried")
#: Bytes of an ended run in Redis, about, without its output.
RECORD_BYTES = 2048
#: Gaps of passes that have none.
_NO_GAPS: Mapping[str, float] = {}


class Passes(Server):
    """The part of `Store` for maintenance passes."""

    def begin_passes(
        self, names: Sequence[str], *, every_s: float, gaps_s: Mapping[str, float] = _NO_GAPS, settle_s: float = 10.0
    ) -> list[str]:
        """Begin the passes that began nowhere in the last `every_s`. Returns their names: the caller does them now.

        A pass whose last begin is longer ago than its gap (`gaps_s`) is put off by `settle_s`: Redis was away, and
        workers report first.
        """
        passes = [word for name in names for word in (name, as_us(every_s), as_us(gaps_s.get(name, 0.0)))]
        answers = self._call("begin_pass", int(settle_s * 1000), *passes)
        return [name for name, is_due in zip(names, answers, strict=True) if is_due]

    def pass_ages_s(self) -> dict[str, float]:
        """Seconds since each maintenance pass last began."""
        now = self.now_us()
        with clear_errors(self.url):
            passes = self._redis.hgetall(keys.PASSES)
        return {text(name): (now - (read_whole(at) or 0)) / 1e6 for name, at in passes.items()}

    def stale(self, *, limit: int) -> list[Record]:
        """Runs whose lease ran out by the server's clock, the oldest first; only the fields that decide are read."""
        found = self._call("stale", limit, *_OF_STALE)
        return [
            record_of(text(run_id), {name: text(value) for name, value in zip(_OF_STALE, values, strict=True) if value})
            for run_id, values in zip(found[::2], found[1::2], strict=True)
        ]

    def publish_due(self, *, limit: int = 100, free: FreeCapacity | None = None) -> tuple[int, int, bool]:
        """Dispatch the runs that are due, and to a worker with `free` capacity those that it prepares ahead of time.

        Returns the number of dispatched runs, the next due time (server microseconds, 0 for none), and whether a
        schedule is due.
        """
        count, next_due, is_scheduled = self._call("publish_due", limit, free.to_json() if free is not None else "")
        return count, int(next_due), bool(is_scheduled)

    def publish_lost(self, *, grace_s: float, limit: int = 500) -> int:
        """Dispatch the runs again whose items have been lost for `grace_s`. Returns how many runs that were."""
        found, after = 0, ""
        # A bound on the rounds: heartbeats move workers, so that the same ones may come again and again.
        for _ in range(_LOOKS_FOR_LOST):
            count, after = self._call("publish_lost", as_us(grace_s), limit, after)
            found += count
            if not after:
                break
        return found

    def check_cancellations(self, *, limit: int = 1000) -> int:
        """Tell owners again of stops that they have not carried out. Returns how many runs that were."""
        return int(self._call("check_cancellations", limit))

    def retire(self, *, retention_s: float, limit: int = 200, unarchived_bytes: int = 1 << 30) -> int:
        """Delete the runs that ended longer than `retention_s` ago. Returns how many runs that were.

        While an archive is registered, runs that it has not confirmed are kept longer, as many as fit into
        `unarchived_bytes`, about; the oldest that are more are deleted too.
        """
        most = unarchived_bytes // RECORD_BYTES
        return int(self._call("retire", as_us(retention_s), limit, most))
