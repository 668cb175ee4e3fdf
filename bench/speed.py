"""Submit to the job's first instruction, and throughput as a share of what the machine can spawn."""

from __future__ import annotations

import shutil
import time

from bench.limits import spawn_rate, xargs_rate
from bench.measure import RedisMeter, Results, cpu_s, percentile
from bench.systems import ALL, CELERY, SLOTS, Running, System


def measure(results: Results, *, rounds: int, jobs: int, singles: int, systems: tuple[System, ...] = ALL) -> None:
    """Each round has every system once, between two measurements of the limit."""
    true = shutil.which("true") or "/bin/true"
    latency = results.metric("submit to first instruction, median", "ms", baseline=CELERY.name, goal="1.0 x celery")
    worst = results.metric("submit to first instruction, p99", "ms", goal="50 ms")
    rate = results.metric(f"jobs a second, {SLOTS} slots", "/s", baseline=CELERY.name, goal="1.1 x celery, then more")
    share = results.metric("... as a share of posix_spawn", "")
    cost = results.metric("CPU of the worker a job", "ms", baseline=CELERY.name)
    of_redis = results.metric("CPU of Redis a job, from submit to end", "ms", baseline=CELERY.name)
    requests = results.metric("requests to Redis a job", "", baseline=CELERY.name)
    for _ in range(rounds):
        before = spawn_rate([true], count=jobs, slots=SLOTS)
        share.add("xargs -P", xargs_rate([true], count=jobs, slots=SLOTS) / before)
        for system in systems:
            count = max(20, int(jobs * system.share))
            with Running(system) as running:
                running.stamp()
                # The first jobs find cold caches.
                running.submit([([true], SLOTS)])
                running.stamp()
                some = max(10, int(singles * min(1.0, 2 * system.share)))
                waits = [running.stamp() for _ in range(some)]
                latency.add(system.name, percentile(waits, 0.5))
                worst.add(system.name, percentile(waits, 0.99))
                cpu_before, meter = cpu_s(running.worker_pid), RedisMeter(running.redis)
                per_second = throughput(running, [true], count=count)
                cost.add(system.name, (cpu_s(running.worker_pid) - cpu_before) / count * 1000)
                traffic = meter.read()
                of_redis.add(system.name, traffic.cpu_s / count * 1000)
                requests.add(system.name, traffic.requests / count)
            after = spawn_rate([true], count=jobs, slots=SLOTS)
            rate.add(system.name, per_second)
            share.add(system.name, per_second / ((before + after) / 2))
            before = after


def throughput(running: Running, argv: list[str], *, count: int) -> float:
    """Jobs a second of a worker that finds so many in its queue. The last of them stamp their starts."""
    running.freeze()
    running.submit([(argv, count), (running.stamps.argv("last"), SLOTS)], many=True)
    running.thaw()
    began = time.monotonic_ns()
    last = max(at for _, at in running.stamps.read(SLOTS, timeout_s=300))
    return (count + SLOTS) / ((last - began) / 1e9)
