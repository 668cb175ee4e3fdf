"""Reading run records, history, logs and the system's own registers; nothing here changes anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from launch_worker.errors import UnknownRunError
from launch_worker.ids import ID_RULE, RUN_ID
from launch_worker.model.run import Record, Transition
from launch_worker.model.spec import PRIORITIES
from launch_worker.model.states import RunState
from launch_worker.model.units import isoformat
from launch_worker.store import keys
from launch_worker.store.redis.client import Client, pairs, text
from launch_worker.store.redis.connection import clear_errors, without_login
from launch_worker.untrusted.text import read_json, read_map

__all__ = ["LogChunk", "Reader", "pairs", "record_of", "text"]

_PAGE = 100
#: Of a record that does not say it.
_PRIORITY = str(PRIORITIES["medium"])
#: How long the listener blocks before it checks that its connection lives.
_LISTEN_TURN_S = 30.0
_SUBSCRIBE_S = 2.0


@dataclass(frozen=True)
class LogChunk:
    """A piece of output: `offset` counts bytes from the attempt's first."""

    entry: str
    offset: int
    data: bytes


class Reader(Client):
    """A thread-safe view of one Redis. Every method raises BrokerUnavailableError."""

    def ping(self) -> None:
        with clear_errors(self.url):
            self._redis.ping()

    def now_us(self) -> int:
        """The server's time in microseconds."""
        with clear_errors(self.url):
            seconds, micros = self._redis.time()
        return int(seconds) * 1_000_000 + int(micros)

    def get(self, run_id: str) -> Record:
        """The run's record now. Raises UnknownRunError."""
        self.check_id(run_id)
        found = self._records([run_id])
        if not found:
            raise self.unknown(run_id)
        return found[0]

    def check_id(self, run_id: str) -> None:
        """Raises UnknownRunError for what cannot be a run's id: it might be the rest of another key's name."""
        if not RUN_ID.fullmatch(run_id):
            raise UnknownRunError(f"there is no run {run_id[:40]!r}: {ID_RULE}")

    def unknown(self, run_id: str) -> UnknownRunError:
        """Why there is no such run, as an error: it was deleted, or never there, or that is too long ago."""
        with clear_errors(self.url):
            mark = self._redis.get(keys.deleted(run_id))
        shown = run_id if len(run_id) <= 40 and run_id.isprintable() else repr(run_id[:40])
        if mark:
            deleted = read_map(mark)
            at = str(deleted.get("at", ""))
            when = f" at {isoformat(int(at))}" if at.isdecimal() else ""
            return UnknownRunError(f"run {shown} was deleted by {deleted.get('by') or 'somebody'}{when}")
        return UnknownRunError(f"there is no run {shown}; list the known ones with: launch-worker runs")

    def peek(self, run_id: str) -> Record | None:
        """The run's record now; None when there is none."""
        return next(iter(self._records([run_id])), None)

    def select(
        self, *, state: RunState | None = None, project: str = "", queue: str = "", newest_first: bool = True
    ) -> Iterator[Record]:
        """Runs by creation time, read in pages through the smallest index that fits, so never a scan of all."""
        wanted = {"state": state.value if state else "", "project": project, "queue": queue}
        indexes = [keys.runs_by(kind, value) for kind, value in wanted.items() if value] or [keys.RUNS]
        with clear_errors(self.url):
            sizes = [self._redis.zcard(index) for index in indexes] if len(indexes) > 1 else [0]
        index = indexes[sizes.index(min(sizes))]
        seen: set[str] = set()
        edge = "+inf" if newest_first else "-inf"
        while True:
            # By score and not by rank: runs that come or go meanwhile shift ranks.
            bounds = ("-inf", edge) if newest_first else (edge, "+inf")
            with clear_errors(self.url):
                if newest_first:
                    page = self._redis.zrevrangebyscore(index, edge, "-inf", start=0, num=_PAGE, withscores=True)
                else:
                    page = self._redis.zrangebyscore(index, *bounds, start=0, num=_PAGE, withscores=True)
            fresh = [text(run_id) for run_id, _ in page if text(run_id) not in seen]
            seen.update(fresh)
            for record in self._records(fresh):
                if all(not value or getattr(record, kind) == value for kind, value in wanted.items()):
                    yield record
            if len(page) < _PAGE or not fresh:
                return
            edge = str(int(page[-1][1]))

    def history(self, run_id: str) -> list[Transition]:
        """Every transition, the oldest first."""
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=True)
            pipe.hget(keys.run(run_id), "created_at")
            pipe.lrange(keys.history(run_id), 0, -1)
            created, lines = pipe.execute()
        found = [step for line in lines if (step := _transition(text(line))) is not None]
        created_at = int(created) if created and created.isdigit() else 0
        # Of a run that was made without a reason it is not written.
        if created_at and (not found or (found[0].state, found[0].at) != (RunState.PENDING, created_at)):
            found.insert(0, Transition(RunState.PENDING, created_at, 0, "", ""))
        return found

    def log(self, run_id: str, attempt: int, *, after: str = "-") -> list[LogChunk]:
        """Kept output of an attempt, in order, after the entry `after`."""
        start = after if after == "-" else f"({after}"
        with clear_errors(self.url):
            entries = self._redis.xrange(keys.log(run_id, attempt), min=start)
        return [_chunk(entry, fields) for entry, fields in entries]

    def upload_chunk(self, sha256: str, number: int) -> bytes | None:
        """One part of an upload; None when it is gone."""
        with clear_errors(self.url):
            data: bytes | None = self._redis.get(keys.upload_chunk(sha256, number))
        return data

    @contextmanager
    def watch(self, run_id: str) -> Iterator[Callable[[float], bool]]:
        """Yields a function that blocks until the run makes a transition or prints, or for so many seconds (False).

        News from the moment of entering on are not missed; read the run after entering.
        """
        with self._watch(keys.news_channel(run_id)) as wait:
            yield wait

    @contextmanager
    def _watch(self, channel: str) -> Iterator[Callable[[float], bool]]:
        with clear_errors(self.url), self._redis.pubsub(ignore_subscribe_messages=True) as pubsub:
            pubsub.subscribe(channel)
            # The subscription holds once its confirmation was read.
            pubsub.get_message(timeout=_SUBSCRIBE_S)

            def wait(timeout_s: float) -> bool:
                with clear_errors(self.url):
                    heard = pubsub.get_message(timeout=timeout_s) is not None
                    while pubsub.get_message(timeout=0) is not None:
                        pass
                return heard

            yield wait

    def consumers(self, queue: str) -> int:
        """How many live workers consume the queue."""
        now = self.now_us()
        with clear_errors(self.url):
            return int(self._redis.zcount(keys.consumers(queue), now, "+inf"))

    def slots_of(self, queue: str) -> tuple[int, int | None]:
        """How many live workers consume a queue, and how many slots they have free; None where one does not say."""
        now = self.now_us()
        with clear_errors(self.url):
            owners = [text(owner) for owner in self._redis.zrangebyscore(keys.consumers(queue), now, "+inf")]
        slots = self._free_slots(owners)
        return len(owners), None if None in slots else sum(count for count in slots if count)

    def workers_now(self) -> list[dict[str, Any]]:
        """As `workers`, with how many runs each has by now: its own word is as old as its last heartbeat."""
        found = self.workers()
        for said, free in zip(found, self._free_slots([said["owner"] for said in found]), strict=True):
            if free is not None:
                said["running"] = max(0, said["slots"] - free)
        return found

    def _free_slots(self, owners: Sequence[str]) -> list[int | None]:
        """As the scripts count them; None of a worker that takes nothing now."""
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            for owner in owners:
                pipe.hget(keys.free(owner), "slots")
            found = pipe.execute(raise_on_error=False) if owners else []
        return [int(count) if isinstance(count, bytes) and count.isdigit() else None for count in found]

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

    def line(self, queue: str, *, limit: int) -> list[Record]:
        """The first runs that wait in a queue, in line order, those that are not ready at the end."""
        with clear_errors(self.url):
            ids = [text(run_id) for run_id in self._redis.zrange(keys.line(queue), 0, limit - 1)]
        return self._records(ids)

    def array_runs(self, array: str, *, limit: int = 0) -> list[str]:
        """The ids of an array's runs, in the order of their submission, or the first of them; none for no array."""
        with clear_errors(self.url):
            if not RUN_ID.fullmatch(array) or not self._redis.exists(keys.array(array)):
                return []
            return [text(run_id) for run_id in self._redis.zrange(keys.runs_by("array", array), 0, limit - 1)]

    def schedules(self) -> list[tuple[str, str, int]]:
        """Name, description (JSON) and next time (server microseconds) of each recurring submission, soonest first."""
        with clear_errors(self.url):
            found = self._redis.zrange(keys.SCHEDULES, 0, -1, withscores=True)
            kept = self._redis.mget([keys.schedule(text(name)) for name, _ in found]) if found else []
        return [(text(name), text(json_text or ""), int(at)) for (name, at), json_text in zip(found, kept, strict=True)]

    def schedule(self, name: str) -> tuple[str, int] | None:
        """Description and next time of one; None when there is none."""
        with clear_errors(self.url):
            kept, at = self._redis.get(keys.schedule(name)), self._redis.zscore(keys.SCHEDULES, name)
        return (text(kept), int(at)) if kept is not None and at is not None else None

    def counts(self) -> dict[RunState, int]:
        """How many runs are in each state."""
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            for state in RunState:
                pipe.zcard(keys.runs_by("state", state.value))
            return dict(zip(RunState, pipe.execute(), strict=True))

    def pass_ages_s(self) -> dict[str, float]:
        """Seconds since each maintenance pass last began."""
        now = self.now_us()
        with clear_errors(self.url):
            passes = self._redis.hgetall(keys.PASSES)
        return {text(name): (now - int(at)) / 1e6 for name, at in passes.items()}

    def server(self) -> dict[str, Any]:
        """The server's version, how it keeps data, and whether it came back with less than it had."""
        with clear_errors(self.url):
            info = self._redis.info()
            restored_at = self._redis.get(keys.RESTORED)
            restored_runs = self._redis.hget(keys.COUNTERS, "restored_runs")
        capacity = int(info.get("maxmemory") or 0)
        used = int(info.get("used_memory") or 0) - int(info.get("mem_not_counted_for_evict") or 0)
        return {
            # Valkey tells the version of Redis that it is compatible with, and its own.
            "product": "Valkey" if "valkey_version" in info else "Redis",
            "version": str(info.get("valkey_version") or info["redis_version"]),
            "aof_enabled": bool(info.get("aof_enabled")),
            "maxmemory_policy": str(info.get("maxmemory_policy", "noeviction")),
            "restored_at": isoformat(int(restored_at)) if restored_at else None,
            "restored_runs": int(restored_runs or 0),
            "master": f"{info.get('master_host')}:{info.get('master_port')}" if info.get("role") == "slave" else None,
            #: Of the memory that it may take, or None where that has no limit.
            "memory_used": used / capacity if capacity else None,
            "is_saved": "err" not in (info.get("rdb_last_bgsave_status"), info.get("aof_last_write_status")),
        }

    def held(self, *, limit: int = 20) -> list[Record]:
        """Runs of which nobody knows whether their job has ended, and whose worker is gone."""
        with clear_errors(self.url):
            ids = self._redis.zrangebyscore(keys.LEASES, HELD_UNTIL, "+inf", start=0, num=limit)
        return [record for record in self._records([text(run_id) for run_id in ids]) if record.is_held]

    def admits_anyone(self) -> bool:
        """Whether the server takes commands without a login."""
        client = without_login(self.url, name="launch-look")
        try:
            return bool(client.ping())
        except (RedisError, OSError):
            return False
        finally:
            client.close()

    def listens_beyond_loopback(self) -> bool:
        """Whether it says so itself; False where its settings may not be asked for."""
        try:
            found = self._redis.config_get("protected-mode", "bind")
        except (RedisError, OSError):
            return False
        plain = {text(name): text(value) for name, value in found.items()}
        addresses = plain.get("bind", "").replace("-", "").split()
        return plain.get("protected-mode") == "no" and not all(
            address == "::1" or address.startswith("127.") for address in addresses or ["*"]
        )

    def inconsistencies(self, *, limit: int) -> list[str]:
        """Where records and indexes disagree, among the newest `limit` runs; a run in motion is looked at twice."""
        with clear_errors(self.url):
            ids = [text(run_id) for run_id in self._redis.zrevrange(keys.RUNS, 0, limit - 1)]
        suspects = self._inconsistent(ids)
        return list(self._inconsistent(list(suspects)).values()) if suspects else []

    def _inconsistent(self, run_ids: Sequence[str]) -> dict[str, str]:
        wrong = {}
        for start in range(0, len(run_ids), _PAGE):
            page = run_ids[start : start + _PAGE]
            with clear_errors(self.url):
                pipe = self._redis.pipeline(transaction=True)
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

    def has_system(self) -> bool:
        """Whether a worker of this system has ever made a container."""
        with clear_errors(self.url):
            return bool(self._redis.exists(keys.SYSTEM))

    def queue_config(self, name: str) -> str:
        """The JSON of a queue's configuration; '' when it has none."""
        with clear_errors(self.url):
            return text(self._redis.hget(keys.queue(name), "config") or "")

    def refused(self, *, limit: int = 20) -> list[dict[str, Any]]:
        """The newest malformed queue elements that were kept aside."""
        with clear_errors(self.url):
            entries = self._redis.lrange(keys.REFUSED, 0, limit - 1)
        known = [read_map(entry) for entry in entries]
        return [item | {name: str(item.get(name, "?")) for name in ("queue", "reason")} for item in known]

    def listen(
        self, channels: Sequence[str], *, on_message: Callable[[str, str], None], stopped: Callable[[], bool]
    ) -> None:
        """Hand (channel, message) of each publication to `on_message` until `stopped`; raises when Redis goes away."""
        with clear_errors(self.url), self._redis.pubsub(ignore_subscribe_messages=True) as pubsub:
            pubsub.subscribe(*channels)
            while not stopped():
                message = pubsub.get_message(timeout=_LISTEN_TURN_S)
                if message is not None and message["type"] == "message":
                    on_message(text(message["channel"]), text(message["data"]))
                elif message is None:
                    pubsub.ping()

    def _records(self, run_ids: Sequence[str]) -> list[Record]:
        with clear_errors(self.url):
            pipe = self._redis.pipeline(transaction=False)
            for run_id in run_ids:
                pipe.hgetall(keys.run(run_id))
            hashes = pipe.execute(raise_on_error=False) if run_ids else []
        return [
            record_of(run_id, pairs(fields))
            for run_id, fields in zip(run_ids, hashes, strict=True)
            if fields and not isinstance(fields, Exception)
        ]


#: The lease of a held run: later than any time in microseconds (LATER in lua/words/line.lua).
HELD_UNTIL = 9_000_000_000_000_000


def record_of(run_id: str, fields: dict[str, str]) -> Record:
    """The record of this run, with what its hash leaves out because it is so anyway."""
    return Record.from_hash({"priority": _PRIORITY} | fields | {"id": run_id})


def _transition(text_line: str) -> Transition | None:
    """None for a line that we did not write."""
    try:
        line = read_json(text_line)
        return Transition(
            state=RunState(line["state"]),
            at=int(line["at"]),
            attempt=int(line.get("attempt", 0)),
            worker=str(line.get("worker", "")),
            reason=str(line.get("reason", "")),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _chunk(entry: bytes, fields: dict[bytes, bytes]) -> LogChunk:
    return LogChunk(text(entry), int(fields[b"o"]), fields[b"d"])
