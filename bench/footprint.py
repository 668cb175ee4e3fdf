"""What a worker takes: boot, idle CPU and Redis commands, memory, with nothing to do and with many jobs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack

from bench.measure import RedisMeter, Results, cpu_s, pss_mib, wait_until
from bench.systems import CELERY, HUEY, LAUNCH, RQ, SLOTS, Running, System

#: Every job of these is one that waits.
_MANY = 100
#: A worker's first pass may come so late.
_SETTLED_S = 5.0
_SYSTEMS = (CELERY, LAUNCH, HUEY, RQ)


def boot(results: Results, *, rounds: int, systems: Sequence[System] = _SYSTEMS) -> None:
    """From the worker's command line to the first instruction of a job that waits for it."""
    took = results.metric("boot to first job", "s", baseline=CELERY.name, goal="0.8 s")
    cpu = results.metric("... CPU until then", "s", baseline=CELERY.name)
    for _ in range(rounds):
        for system in systems:
            with Running(system, start=False) as running:
                running.submit([(running.stamps.argv("first"), 1)])
                began = time.monotonic_ns()
                running.start_worker()
                ((_, at),) = running.stamps.read(1, timeout_s=60)
                cpu.add(system.name, cpu_s(running.worker_pid))
                took.add(system.name, (at - began) / 1e9)


def idle(results: Results, *, rounds: int, seconds: float, systems: Sequence[System] = _SYSTEMS) -> None:
    """Workers with 8 slots and nothing to do, guard or pool included: all at once, for they leave the machine alone.

    `seconds` should be a multiple of 10: that often comes what a worker does most rarely.
    """
    cpu = results.metric("idle CPU of a worker", "% of a core", baseline=CELERY.name, goal="0.3 %")
    sent = results.metric("idle requests to Redis", "/s", baseline=CELERY.name, goal="3/s")
    commands = results.metric("... commands, those within scripts too", "/s", baseline=CELERY.name)
    memory = results.metric(f"memory of an idle worker, {SLOTS} slots", "MiB PSS", baseline=CELERY.name, goal="60 MiB")
    for _ in range(rounds):
        with ExitStack() as stack:
            workers = [stack.enter_context(Running(system)) for system in systems]
            for running in workers:
                running.stamp()
            # Their starts are over, and what they did for the first job.
            time.sleep(_SETTLED_S)
            meters = [RedisMeter(running.redis) for running in workers]
            before = [cpu_s(running.worker_pid) for running in workers]
            time.sleep(seconds)
            for running, meter, cpu_before in zip(workers, meters, before, strict=True):
                traffic, used = meter.read(), cpu_s(running.worker_pid) - cpu_before
                name = running.system.name
                cpu.add(name, used / traffic.seconds * 100)
                sent.add(name, traffic.requests / traffic.seconds)
                commands.add(name, traffic.commands / traffic.seconds)
                memory.add(name, pss_mib(running.worker_pid))


def busy(results: Results, *, rounds: int, seconds: float) -> None:
    """One worker that supervises 100 jobs which only wait."""
    memory = results.metric(f"memory with {_MANY} running jobs", "MiB PSS", baseline="idle")
    cpu = results.metric(f"CPU with {_MANY} running jobs", "% of a core")
    sent = results.metric(f"requests to Redis with {_MANY} running jobs", "/s")
    commands = results.metric(f"... commands with {_MANY}, those within scripts too", "/s")
    for _ in range(rounds):
        with Running(LAUNCH, slots=_MANY) as running:
            running.stamp()
            memory.add("idle", pss_mib(running.worker_pid))
            running.submit([(["/bin/sleep", "600"], _MANY)])
            wait_until(lambda: running.redis.zcard("launch:leases") == _MANY, what=f"{_MANY} jobs run")
            time.sleep(2.0)
            memory.add("busy", pss_mib(running.worker_pid))
            meter, before = RedisMeter(running.redis), cpu_s(running.worker_pid)
            time.sleep(seconds)
            traffic, used = meter.read(), cpu_s(running.worker_pid) - before
            cpu.add("launch_worker", used / seconds * 100)
            sent.add("launch_worker", traffic.requests / traffic.seconds)
            commands.add("launch_worker", traffic.commands / traffic.seconds)
