"""Real idle workers beside one Redis, up to two hundred: what they cost, and how late their heartbeats are."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

import psutil

from bench.measure import RedisMeter, Results, own_cpu_s, percentile, pss_mib, wait_until
from bench.systems import LAUNCH, Running
from launch_worker.settings import Settings
from launch_worker.store import keys

#: What one worker takes with its guard, and what is left to the machine, in bytes.
_WORKER_BYTES, _LEFT_BYTES = 60 << 20, 3 << 30
#: So many start at the same time.
_AT_ONCE = 10
_QUEUES = "default,q1,q2,q3"
_STAMPS = 40
_JOBS = 400


def measure(results: Results, *, sizes: Sequence[int], seconds: float) -> None:
    """One Redis and more and more workers with 8 slots and 4 queues each."""
    with Running(LAUNCH, start=False) as running:
        for size in sizes:
            more = size - len(running.parts)
            if psutil.virtual_memory().available < more * _WORKER_BYTES + _LEFT_BYTES:
                results.note(f"not measured with {size} workers: this machine has too little memory")
                return
            _grow(running, size)
            _idle(results, running, size, baseline=f"{sizes[0]} workers", seconds=seconds)
            _at_work(results, running, size, baseline=f"{sizes[0]} workers")


def _grow(running: Running, size: int) -> None:
    while (count := len(running.parts)) < size:
        for number in range(count, min(size, count + _AT_ONCE)):
            name = f"w{number}@%h"
            running.start(
                [f"{LAUNCH.bin}/celery", "-A", "launch_worker", "worker", "-Q", _QUEUES, "-c", "8", "-n", name]
            )
        wait_until(
            lambda: running.redis.zcard(keys.WORKERS) == len(running.parts),
            timeout_s=300,
            turn_s=0.1,
            what=f"{len(running.parts)} workers are there; their log: {running.log_tail()}",
        )


def _idle(results: Results, running: Running, size: int, *, baseline: str, seconds: float) -> None:
    name = f"{size} workers"
    pids = _processes(running)
    running.submit([(running.stamps.argv("first"), 1)])
    running.stamps.read(1, timeout_s=60)
    # What each does once, after its start.
    time.sleep(Settings.heartbeat_s)
    meter, before_s, beats = RedisMeter(running.redis), sum(map(own_cpu_s, pids)), defaultdict[bytes, set[float]](set)
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        time.sleep(1.0)
        for owner, gone_us in running.redis.zrange(keys.WORKERS, 0, -1, withscores=True):
            beats[owner].add(gone_us)
    traffic, used_s = meter.read(), sum(map(own_cpu_s, pids)) - before_s
    gaps_s = [(later - earlier) / 1e6 for times in beats.values() for earlier, later in pairwise(sorted(times))]
    # A worker that has nothing new to say lets some heartbeats out.
    due_s = Settings.heartbeat_s * max(1, round(percentile(gaps_s, 0.5) / Settings.heartbeat_s))
    late_ms = [(gap_s - due_s) * 1000 for gap_s in gaps_s]
    known = running.redis.info()
    figures = {
        ("connections to Redis", ""): int(known["connected_clients"]) - 1,
        ("Redis requests of real idle workers", "/s"): traffic.requests / traffic.seconds,
        ("... commands, those within scripts too", "/s"): traffic.commands / traffic.seconds,
        ("Redis CPU of real idle workers", "% of a core"): traffic.cpu_s / traffic.seconds * 100,
        ("Redis memory", "MiB"): int(known["used_memory"]) / (1 << 20),
        ("CPU of all workers", "% of a core"): used_s / traffic.seconds * 100,
        ("memory of a worker with its guard", "MiB PSS"): sum(pss_mib(one.pid) for one in running.parts[:5]) / 5,
        ("a heartbeat after it is due, p50", "ms"): percentile(late_ms, 0.5),
        ("a heartbeat after it is due, the last of all", "ms"): max(late_ms),
    }
    for (what, unit), value in figures.items():
        results.metric(what, unit, baseline=baseline).add(name, value)


def _at_work(results: Results, running: Running, size: int, *, baseline: str) -> None:
    """One job at a time, for which all of them wait; then many at once."""
    name = f"{size} workers"
    waits = [running.stamp() for _ in range(_STAMPS)]
    results.metric("submit to first instruction beside idle workers", "ms", baseline=baseline).add(
        name, percentile(waits, 0.5)
    )
    meter = RedisMeter(running.redis)
    ended = running.redis.zcard(keys.runs_by("state", "Finished"))
    running.submit([(["/bin/true"], _JOBS)], many=True)
    wait_until(
        lambda: running.redis.zcard(keys.runs_by("state", "Finished")) == ended + _JOBS,
        timeout_s=120,
        turn_s=0.05,
        what=f"{_JOBS} runs have ended",
    )
    used_ms = meter.read().cpu_s * 1000 / _JOBS
    results.metric(f"CPU of Redis a run, {_JOBS} at once", "ms", baseline=baseline).add(name, used_ms)


def _processes(running: Running) -> list[int]:
    """All workers and their guards."""
    started = {part.pid for part in running.parts}
    return [
        process.pid
        for process in psutil.process_iter(["ppid"])
        if process.pid in started or process.info["ppid"] in started
    ]
