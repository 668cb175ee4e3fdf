"""Submit to the job's first instruction, and throughput as a share of what the machine can spawn."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack

from bench.limits import spawn_rate, xargs_rate
from bench.measure import RedisMeter, Results, cpu_s, percentile
from bench.systems import ALL, CELERY, LAUNCH, SLOTS, Running, System


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
    for number in range(rounds):
        before = spawn_rate([true], count=jobs, slots=SLOTS)
        share.add("xargs -P", xargs_rate([true], count=jobs, slots=SLOTS) / before)
        for system in systems:
            count = max(SLOTS, int(jobs * system.share))
            if number and count == SLOTS:
                # Its few jobs take longer than all others of a round.
                continue
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
                if system.has_redis:
                    of_redis.add(system.name, traffic.cpu_s / count * 1000)
                    requests.add(system.name, traffic.requests / count)
            after = spawn_rate([true], count=jobs, slots=SLOTS)
            rate.add(system.name, per_second)
            share.add(system.name, per_second / ((before + after) / 2))
            before = after


def in_turns(
    results: Results, *, pairs: int, pauses_ms: tuple[int, int], systems: Sequence[System] = (CELERY, LAUNCH)
) -> None:
    """One job each in turns, while all workers are alive: what slows the machine for a moment meets all of them."""
    least, most = pauses_ms
    how = f"pauses of {least} to {most} ms" if most else "back to back"
    metric = results.metric(f"... in turns, {how}", "ms", baseline=CELERY.name, goal="1.0 x celery")
    with ExitStack() as stack:
        workers = [stack.enter_context(Running(system)) for system in systems]
        for running in workers:
            running.stamp()
            running.submit([(running.stamps.argv("warm"), 3 * SLOTS)])
            running.stamps.read(3 * SLOTS, timeout_s=60)
        for at in range(pairs):
            # Nobody is always the first, who finds the caches as the others left them.
            first = at % len(workers)
            for running in workers[first:] + workers[:first]:
                time.sleep(random.uniform(least, most) / 1000)
                metric.add(running.system.name, running.stamp())


def throughput(running: Running, argv: list[str], *, count: int) -> float:
    """Jobs a second of a worker that finds so many in its queue. The last of them stamp their starts.

    A worker that is its own queue cannot be filled while it is frozen: its clock begins with the call that fills it.
    """
    jobs = [(argv, count), (running.stamps.argv("last"), SLOTS)]
    if running.system.has_redis:
        running.freeze()
        running.submit(jobs, many=True)
        running.thaw()
        began = time.monotonic_ns()
    else:
        began, _ = running.submit(jobs, many=True)
    last = max(at for _, at in running.stamps.read(SLOTS, timeout_s=300))
    return (count + SLOTS) / ((last - began) / 1e9)
