"""Queues and pools: their settings, and the runs that wait in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from launch_worker.model.run import Record
from launch_worker.store import keys
from launch_worker.store.records import Records
from launch_worker.store.redis.client import text
from launch_worker.store.redis.connection import clear_errors
from launch_worker.store.server import Server

#: Runs that one call lets go: Redis does nothing else meanwhile.
_WAKE_AT_ONCE = 500


class Queues(Records, Server):
    """The part of `Store` for queues and pools."""

    def configure(self, kind: str, name: str, fields: Mapping[str, str | None], *, create: bool = False) -> bool:
        """Set fields of a queue or a pool (`kind`); None takes one away. Runs that may go now are let go.

        With `create` it must be new; False when it is not. Fields: config, limit, paused, and pool and rank of a queue.
        """
        flat = [part for field, value in fields.items() for part in (field, value or "")]
        done, *groups = self._call("configure", kind, name, int(create), *flat)
        for group in groups:
            while self._call("wake", text(group), _WAKE_AT_ONCE) >= _WAKE_AT_ONCE:
                pass
        return bool(done)

    def delete_queue(self, name: str) -> str:
        """Take a queue and its configuration off the lists. Returns '' or why not."""
        waiting = int(self._call("delete_queue", name))
        return "" if not waiting else f"{waiting} runs wait in it" if waiting > 1 else "a run waits in it"

    def delete_pool(self, name: str) -> str:
        """Take a pool away. Returns '' or why not."""
        queues = int(self._call("delete_pool", name))
        return "" if not queues else f"{queues} queues are in it" if queues > 1 else "a queue is in it"

    def queue_config(self, name: str) -> str:
        """The JSON of a queue's configuration; '' when it has none."""
        with clear_errors(self.url):
            return text(self._redis.hget(keys.queue(name), "config") or "")

    def queues(self) -> dict[str, int]:
        """Every known queue and how many runs are ready in it and wait: for a worker, a limit, a device."""
        return {name: ready for name, (ready, _) in self.lines().items()}

    def lines(self) -> dict[str, tuple[int, int]]:
        """The same, and how many of each queue's runs are not ready: they wait for their time, or for other runs."""
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
        """The first runs that wait in a queue, in line order, those that are not ready at the end."""
        with clear_errors(self.url):
            ids = [text(run_id) for run_id in self._redis.zrange(keys.line(queue), 0, limit - 1)]
        return self.records(ids)

    def place_in_line(self, record: Record) -> int | None:
        """Of a Pending run in its queue, 1 for the next one; None for one that is not ready."""
        with clear_errors(self.url):
            score = self._redis.zscore(keys.line(record.queue), record.id)
            if score is None or score >= keys.LATER:
                return None
            before = self._redis.zrank(keys.line(record.queue), record.id)
        return None if before is None else int(before) + 1

    def oldest_wait_s(self, queues: Sequence[str]) -> float | None:
        """How long the run that is ready for longest in any of these queues waits; None when none does."""
        now = self.now_us()
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            for queue in queues:
                for level in range(len(keys.PRIORITY_STEPS)):
                    first, end = level * keys.LEVEL, min((level + 1) * keys.LEVEL, keys.LATER)
                    pipe.zrangebyscore(keys.line(queue), first, f"({end}", start=0, num=1, withscores=True)
            heads = [int(score) % keys.LEVEL for head in pipe.execute() for _, score in head]
        return max(0.0, (now - min(heads)) / 1e6) if heads else None

    def pools(self) -> list[str]:
        """Every pool that was configured, or that a queue is in."""
        with clear_errors(self.url):
            return sorted(text(name) for name in self._redis.smembers(keys.POOLS))

    def pool_queues(self, pool: str) -> list[tuple[str, int]]:
        """A pool's queues and their ranks, the first one first."""
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
