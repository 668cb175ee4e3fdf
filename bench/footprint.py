"""What a worker takes: boot, idle CPU and Redis commands, memory, with nothing to do and with many jobs."""

from __future__ import annotations

import time
from collections.abc import Sequence

from bench.measure import RedisMeter, Results, cpu_s, pss_mib, wait_until
from bench.systems import CELERY, HUEY, LAUNCH, RQ, SLOTS, Running, System

#: Every job of these is one that waits.
_MANY = 100
_SYSTEMS = (CELERY, LAUNCH, HUEY, RQ)


def boot(results: Results, *, rounds: int, systems: Sequence[System] = _SYSTEMS) -> None:
    """From the worker's command line to the first instruction of a job that waits for it."""
    took = results.metric("boot to first job", "s", baseline=CELERY.name, goal="0.8 s")
    for _ in range(rounds):
        for system in systems:
            with Running(system, start=False) as running:
                running.submit([(running.stamps.argv("first"), 1)])
                began = time.monotonic_ns()
                running.start_worker()
                ((_, at),) = running.stamps.read(1, timeout_s=60)
                took.add(system.name, (at - began) / 1e9)


def idle(results: Results, *, rounds: int, seconds: float, systems: Sequence[System] = _SYSTEMS) -> None:
    """A worker with 8 slots and nothing to do, guard or pool included."""
    cpu = results.metric("idle CPU of a worker", "% of a core", baseline=CELERY.name, goal="0.3 %")
    commands = results.metric("idle Redis commands", "/s", baseline=CELERY.name, goal="3/s")
    memory = results.metric(f"memory of an idle worker, {SLOTS} slots", "MiB PSS", baseline=CELERY.name, goal="60 MiB")
    for _ in range(rounds):
        for system in systems:
            with Running(system) as running:
                running.stamp()
                # Its start is over, and what it did for the first job.
                time.sleep(2.0)
                meter, before = RedisMeter(running.redis), cpu_s(running.worker_pid)
                time.sleep(seconds)
                traffic, used = meter.read(), cpu_s(running.worker_pid) - before
                cpu.add(system.name, used / seconds * 100)
                commands.add(system.name, traffic.commands / traffic.seconds)
                memory.add(system.name, pss_mib(running.worker_pid))


def busy(results: Results, *, rounds: int, seconds: float) -> None:
    """One worker that supervises 100 jobs which only wait."""
    memory = results.metric(f"memory with {_MANY} running jobs", "MiB PSS", baseline="idle")
    cpu = results.metric(f"CPU with {_MANY} running jobs", "% of a core")
    commands = results.metric(f"Redis commands with {_MANY} running jobs", "/s")
    trips = results.metric(f"... scripts among them with {_MANY}", "/s")
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
            commands.add("launch_worker", traffic.commands / traffic.seconds)
            trips.add("launch_worker", traffic.by_name.get("evalsha", 0) / traffic.seconds)
