"""Reads the figures of the whole system for metrics: what is there now, and counters that never fall."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launch_worker.model.states import RunState
from launch_worker.store import keys
from launch_worker.store.counts import DELETED_QUEUES, MOST_COUNTED, OTHER_QUEUES, Counts
from launch_worker.store.health import HELD_UNTIL
from launch_worker.store.redis.client import described, pairs, text
from launch_worker.store.redis.connection import clear_errors
from launch_worker.untrusted.text import read_map, read_whole

#: Numbers of workers and of pools that are read at most.
_MOST_WORKERS, _MOST_POOLS = 2000, 20
#: Commands that are sent for each queue.
_OF_QUEUE = 5


@dataclass(frozen=True)
class QueueFigures:
    """A queue as it is now; or, as `OTHER_QUEUES`, all queues that are not shown by their names."""

    name: str
    #: Number of runs that are ready, and wait for a worker, a limit or a device.
    ready: int
    running: int
    #: Slots of live workers that take runs of the queue.
    slots: int
    #: Seconds for which the ready run waits that has waited longest.
    oldest_s: float
    pool: str
    counts: Counts


@dataclass(frozen=True)
class PoolFigures:
    name: str
    ready: int
    running: int
    limit: int | None


@dataclass(frozen=True, kw_only=True)
class SystemFigures:
    """What is of no one queue, pool or worker. A figure that this user of Redis may not read is None, or not there."""

    #: Time of the server, in microseconds.
    now: int
    runs: Mapping[RunState, int]
    held: int
    pass_ages_s: Mapping[str, float]
    #: Numbers of refused reports and other events.
    events: Mapping[str, int]
    refused_kept: int
    feed_length: int | None
    has_archive: bool
    #: Ended runs that no archive has confirmed, and the seconds since the oldest of them ended.
    unarchived: int
    unarchived_age_s: float
    #: What Redis says of itself (INFO).
    server: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Figures(SystemFigures):
    """All that is read for one scrape."""

    #: Number of queues, also of those that are not shown by name.
    queue_count: int
    queues: Sequence[QueueFigures]
    pools: Sequence[PoolFigures]
    #: The counters of all queues, also of deleted ones.
    counts: Counts
    workers: Mapping[str, int]
    slots: int
    slots_busy: int
    gpus: int
    gpus_held: int
    leases_late: int


def read_figures(redis: Any, url: str) -> Figures:
    """All figures of now, in three round trips. The work follows the numbers of queues and workers, not of runs."""
    with clear_errors(url):
        seen = _overall(redis)
        names = _shown(seen.counted, seen.queues)
        pools = sorted(seen.pools)[:_MOST_POOLS]
        pipe = redis.pipeline(transaction=False)
        pipe.zcount(keys.LEASES, "-inf", seen.system.now)
        pipe.mget([keys.worker(owner) for owner in ("", *seen.owners)])
        for pool in pools:
            pipe.hget(keys.pool(pool), "limit")
        for name in names:
            pipe.zcount(keys.line(name), "-inf", f"({keys.LATER}")
            pipe.zcard(keys.line(name))
            pipe.scard(keys.places("queue", name))
            pipe.hget(keys.queue(name), "pool")
            pipe.hgetall(keys.counts(name))
        late, descriptions, *more = _sound(pipe.execute(raise_on_error=False))
        of_queues = more[len(pools) :]
        rows = [of_queues[at : at + _OF_QUEUE] for at in range(0, len(of_queues), _OF_QUEUE)]
        oldest_s = _oldest_of(redis, [name for name, row in zip(names, rows, strict=True) if row[0]], seen.system.now)
    workers = [said for found in descriptions or () if (said := described(read_map(found or b"")))]
    slots = _slots_by_queue(workers)
    queues = [
        QueueFigures(
            name=name,
            ready=int(ready or 0),
            running=int(running or 0),
            slots=slots[name],
            oldest_s=oldest_s.get(name, 0.0),
            pool=text(pool or b""),
            counts=_counts(counts),
        )
        for name, (ready, _, running, pool, counts) in zip(names, rows, strict=True)
    ]
    every = Counts.sum_of((*(queue.counts for queue in queues), seen.other, seen.deleted))
    if seen.queues - set(names) or seen.other.submitted():
        lined = sum(int(row[1] or 0) for row in rows)
        queues.append(
            QueueFigures(
                name=OTHER_QUEUES,
                ready=max(0, seen.system.runs[RunState.PENDING] - lined),
                running=max(0, seen.system.runs[RunState.RUNNING] - sum(queue.running for queue in queues)),
                slots=sum(count for name, count in slots.items() if name not in names),
                oldest_s=0.0,
                pool="",
                counts=seen.other,
            )
        )
    return Figures(
        **vars(seen.system),
        queue_count=len(seen.queues),
        queues=queues,
        pools=[_pool(name, limit, queues) for name, limit in zip(pools, more[: len(pools)], strict=True)],
        counts=every,
        workers=Counter(str(said["state"]) for said in workers),
        slots=sum(int(said["slots"]) for said in workers),
        slots_busy=sum(int(said["running"]) for said in workers),
        gpus=sum(len(_devices(said)) for said in workers),
        gpus_held=sum(bool(device.get("runs")) for said in workers for device in _devices(said)),
        leases_late=int(late or 0),
    )


def _overall(redis: Any) -> _Overall:
    pipe = redis.pipeline(transaction=False)
    pipe.time()
    pipe.info()
    pipe.smembers(keys.COUNTED)
    pipe.smembers(keys.QUEUES)
    pipe.smembers(keys.POOLS)
    pipe.zrange(keys.WORKERS, 0, _MOST_WORKERS - 1)
    pipe.zcount(keys.LEASES, HELD_UNTIL, "+inf")
    pipe.hgetall(keys.PASSES)
    pipe.hgetall(keys.COUNTERS)
    pipe.llen(keys.REFUSED)
    pipe.xlen(keys.CHANGES)
    pipe.exists(keys.ARCHIVE)
    pipe.zcard(keys.ENDED)
    pipe.zrange(keys.ENDED, 0, 0, withscores=True)
    pipe.hgetall(keys.counts(OTHER_QUEUES))
    pipe.hgetall(keys.counts(DELETED_QUEUES))
    for state in RunState:
        pipe.zcard(keys.runs_by("state", state.value))
    answers = pipe.execute(raise_on_error=False)
    # Without a time nothing is known: a server that refuses this user, or still loads.
    if isinstance(answers[0], Exception):
        raise answers[0]
    seconds, micros = answers[0]
    now = int(seconds) * 1_000_000 + int(micros)
    found = _sound(answers[1:])
    info, counted, queues, pools, owners, held, passes, events, refused, feed, archive, ended, oldest = found[:13]
    other, deleted, *runs = found[13:]
    system = SystemFigures(
        now=now,
        runs={state: int(count or 0) for state, count in zip(RunState, runs, strict=True)},
        held=int(held or 0),
        pass_ages_s={name: max(0.0, (now - at) / 1e6) for name, at in _counts(passes).values.items()},
        events=_counts(events).values,
        refused_kept=int(refused or 0),
        feed_length=None if feed is None else int(feed),
        has_archive=bool(archive),
        unarchived=int(ended or 0) if archive else 0,
        unarchived_age_s=max(0.0, (now - int(oldest[0][1])) / 1e6) if archive and oldest else 0.0,
        server=info or {},
    )
    return _Overall(
        system=system,
        counted=_texts(counted),
        queues=_texts(queues),
        pools=_texts(pools),
        owners=[text(owner) for owner in owners or ()],
        other=_counts(other),
        deleted=_counts(deleted),
    )


def _oldest_of(redis: Any, queues: Sequence[str], now: int) -> dict[str, float]:
    """Seconds for which the ready run of each queue waits that has waited longest."""
    if not queues:
        return {}
    pipe = redis.pipeline(transaction=False)
    levels = len(keys.PRIORITY_STEPS)
    for queue in queues:
        for level in range(levels):
            first, end = level * keys.LEVEL, min((level + 1) * keys.LEVEL, keys.LATER)
            pipe.zrangebyscore(keys.line(queue), first, f"({end}", start=0, num=1, withscores=True)
    heads = _sound(pipe.execute(raise_on_error=False))
    found = {}
    for at, queue in enumerate(queues):
        since = [int(score) % keys.LEVEL for head in heads[levels * at : levels * (at + 1)] for _, score in head or ()]
        if since:
            found[queue] = max(0.0, (now - min(since)) / 1e6)
    return found


@dataclass(frozen=True)
class _Overall:
    """What is read first."""

    system: SystemFigures
    counted: frozenset[str]
    queues: frozenset[str]
    pools: frozenset[str]
    owners: Sequence[str]
    other: Counts
    deleted: Counts


def _shown(counted: frozenset[str], queues: frozenset[str]) -> list[str]:
    """The queues that are shown by name: those with counters, and as there is room those that had no run since."""
    rest = sorted(queues - counted)
    return [*sorted(counted), *rest[: max(0, MOST_COUNTED - len(counted))]]


def _sound(answers: Sequence[Any]) -> list[Any]:
    """The answers, None for a refusal: a user with fewer rights, or a damaged key, costs one figure only."""
    return [None if isinstance(answer, Exception) else answer for answer in answers]


def _texts(members: Collection[bytes] | None) -> frozenset[str]:
    return frozenset(text(member) for member in members or ())


def _counts(fields: Any) -> Counts:
    found = pairs(fields or {})
    return Counts({name: number for name, value in found.items() if (number := read_whole(value)) is not None})


def _devices(said: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return said.get("devices") or ()


def _slots_by_queue(workers: Sequence[Mapping[str, Any]]) -> Counter[str]:
    slots: Counter[str] = Counter()
    for said in workers:
        if said["state"] == "running":
            slots.update(dict.fromkeys(said["queues"], int(said["slots"])))
    return slots


def _pool(name: str, limit: bytes | None, queues: Sequence[QueueFigures]) -> PoolFigures:
    own = [queue for queue in queues if queue.pool == name]
    return PoolFigures(
        name=name,
        ready=sum(queue.ready for queue in own),
        running=sum(queue.running for queue in own),
        limit=read_whole(limit),
    )
