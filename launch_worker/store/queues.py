"""Configures queues and pools, and reads the runs that wait in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from launch_worker.model.run import Record
from launch_worker.store import keys
from launch_worker.store.records import Records
from launch_worker.store.redis.client import text
from launch_worker.store.redis.connection import clear_errors
from launch_worker.store.server import Server

#: Parked runs that one call of the `wake` script dispatches: Redis does nothing else during a call.
_WAKE_AT_ONCE = 500
#: Configuration, which nobody can read, of a queue whose key is of another type, as the scripts have it.
_DAMAGED = "damaged"


class Queues(Records, Server):
    """The part of `Store` for queues and pools."""

    def configure(
        self, kind: str, name: str, fields: Mapping[str, str | None], *, create: bool = False, actor: str = ""
    ) -> bool:
        """Set fields of a queue or a pool (`kind`); None removes a field. Runs that may start now are dispatched.

        With `create` the queue or pool must be new; False when it is not. The fields are config, limit and paused, and
        for a queue also pool and rank.
        """
        flat = [part for field, value in fields.items() for part in (field, value or "")]
        done, *groups = self._call("configure", kind, name, int(create), self.named(actor), *flat)
        for group in groups:
            while self._call("wake", text(group), _WAKE_AT_ONCE) >= _WAKE_AT_ONCE:
                pass
        return bool(done)

    def delete_queue(self, name: str, *, actor: str = "") -> str:
        """Delete a queue's configuration, and its name from the list of queues. Returns '' or why not."""
        waiting = int(self._call("delete_queue", name, self.named(actor)))
        return "" if not waiting else f"{waiting} runs wait in it" if waiting > 1 else "a run waits in it"

    def delete_pool(self, name: str, *, actor: str = "") -> str:
        """Delete a pool. Returns '' or why not."""
        queues = int(self._call("delete_pool", name, self.named(actor)))
        return "" if not queues else f"{queues} queues are in it" if queues > 1 else "a queue is in it"

    def queue_config(self, name: str) -> str:
        """The JSON of a queue's configuration; '' when the queue has none."""
        with clear_errors(self.url):
            return text(self._redis.hget(keys.queue(name), "config") or "")

    def queues(self) -> dict[str, int]:
        """Every known queue, and how many of its runs are ready and wait for a worker, a limit or a device."""
        return {name: ready for name, (ready, _) in self.lines().items()}

    def lines(self) -> dict[str, tuple[int, int]]:
        """Every known queue; how many of its runs are ready, and how many wait for a time or for other runs."""
        names = self.queue_names()
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            for name in names:
                pipe.zcount(keys.line(name), "-inf", f"({keys.LATER}")
                pipe.zcount(keys.line(name), keys.LATER, "+inf")
            found = pipe.execute(raise_on_error=False)
        counts = [count if isinstance(count, int) else 0 for count in found]
        return {name: (counts[2 * at], counts[2 * at + 1]) for at, name in enumerate(names)}

    def line(self, queue: str, *, limit: int) -> list[Record]:
        """The first runs that wait in a queue, in the order of its line; runs that are not ready come last."""
        with clear_errors(self.url):
            ids = [text(run_id) for run_id in self._redis.zrange(keys.line(queue), 0, limit - 1)]
        return self.records(ids)

    def place_in_line(self, record: Record) -> int | None:
        """The place of a Pending run in its queue, 1 for the next run; None for a run that is not ready."""
        with clear_errors(self.url):
            score = self._redis.zscore(keys.line(record.queue), record.id)
            if score is None or score >= keys.LATER:
                return None
            before = self._redis.zrank(keys.line(record.queue), record.id)
        return None if before is None else int(before) + 1

    def oldest_wait_s(self, queues: Sequence[str]) -> float | None:
        """Seconds for which the longest waiting ready run of these queues waits; None when no run is ready."""
        now = self.now_us()
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            for queue in queues:
                for level in range(len(keys.PRIORITY_STEPS)):
                    first, end = level * keys.LEVEL, min((level + 1) * keys.LEVEL, keys.LATER)
                    pipe.zrangebyscore(keys.line(queue), first, f"({end}", start=0, num=1, withscores=True)
            heads = [int(score) % keys.LEVEL for head in pipe.execute() for _, score in head]
        return max(0.0, (now - min(heads)) / 1e6) if heads else None

    def waiting_before(
        self, queues: Sequence[str], before_us: int, *, most: int
    ) -> dict[str, tuple[int, list[tuple[str, int]]]]:
        """The queues with runs that are ready since before this time: how many, and the first with those times."""
        levels = [level * keys.LEVEL for level in range(len(keys.PRIORITY_STEPS))]
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            for queue in queues:
                for first in levels:
                    span = (keys.line(queue), first, f"({min(first + before_us, keys.LATER)}")
                    pipe.zcount(*span)
                    pipe.zrangebyscore(*span, start=0, num=most, withscores=True)
            answers = iter(pipe.execute(raise_on_error=False) if queues else ())
        waiting = {}
        for queue in queues:
            count, found = 0, []
            for _ in levels:
                counted, ids = next(answers), next(answers)
                if isinstance(counted, int) and isinstance(ids, list):
                    count += counted
                    found += [(text(run_id), int(score) % keys.LEVEL) for run_id, score in ids]
            if found:
                waiting[queue] = count, sorted(found, key=lambda run: run[1])[:most]
        return waiting

    def pools(self) -> list[str]:
        """Every pool that was configured, or that a queue names."""
        with clear_errors(self.url):
            return sorted(text(name) for name in self._redis.smembers(keys.POOLS))

    def queue_configs(self, queues: Sequence[str]) -> dict[str, str]:
        """The JSON of what an admin configured of each of these queues; '' for nothing."""
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            for name in queues:
                pipe.hget(keys.queue(name), "config")
            found = pipe.execute(raise_on_error=False) if queues else []
            for answer in found:
                if isinstance(answer, Exception) and not _is_of_key(answer):
                    raise answer
        # A queue whose key is of another type keeps no worker from its heartbeat; its runs fail.
        configs = (_DAMAGED if isinstance(answer, Exception) else text(answer or b"") for answer in found)
        return dict(zip(queues, configs, strict=True))

    def pool_queues(self, pool: str) -> list[tuple[str, int]]:
        """A pool's queues and their ranks, the queue that is served first at first."""
        with clear_errors(self.url):
            found = self._redis.zrange(keys.pool_queues(pool), 0, -1, withscores=True)
        return [(text(name), int(rank)) for name, rank in found]

    def running_in(self, kind: str, name: str) -> int:
        """How many runs of a queue or a pool (`kind`) are Running."""
        queues = [name] if kind == "queue" else [queue for queue, _ in self.pool_queues(name)]
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            for queue in queues:
                pipe.scard(keys.places("queue", queue))
            return sum(pipe.execute()) if queues else 0


def _is_of_key(error: Exception) -> bool:
    """Whether Redis refuses a command for the type of its key."""
    return str(error).startswith("WRONGTYPE")
