"""Runs parked behind a limit: what they cost while they wait, and how soon they wake one by one."""

from __future__ import annotations

import sys
import time

from bench.measure import RedisMeter, Results, cpu_s, wait_until
from bench.systems import LAUNCH, Running
from launch_worker.api.client import Api, submit
from launch_worker.model.states import RunState
from launch_worker.settings import Settings

#: The beat has started, and each pass has been done once.
_SETTLED_S = 6.0


def measure(results: Results, *, runs: int, seconds: float) -> None:
    """A worker and a beat for so many seconds with a running run alone, then with others parked behind it."""
    none, all_parked = "none parked", f"{runs:,} parked"
    cpus = {
        name: results.metric(f"CPU of {name} while runs are parked", "% of a core", baseline=none)
        for name in ("worker", "beat", "Redis")
    }
    commands = results.metric("Redis commands while runs are parked", "/s", baseline=none)
    wakes = results.metric("wakes of parked runs, one by one", "/s")
    with Running(LAUNCH) as running:
        beat_pid = running.start([sys.executable, "-m", "celery", "-A", "launch_worker", "beat"])
        pids = {"worker": running.worker_pid, "beat": beat_pid, "Redis": running.redis_pid}
        api = Api(settings=Settings.from_env({}, redis_url=running.url))
        running.stamp()
        api.store.configure("queue", "default", {"limit": "1"})
        holder = submit(["/bin/sleep", "3600"], api=api)
        wait_until(lambda: holder.state is RunState.RUNNING)
        for name, count in ((none, 0), (all_parked, runs)):
            running.submit([(["/bin/true"], count)], many=True)
            time.sleep(_SETTLED_S)
            before, meter = {part: cpu_s(pids[part]) for part in pids}, RedisMeter(running.redis)
            time.sleep(seconds)
            traffic = meter.read()
            for part, metric in cpus.items():
                metric.add(name, (cpu_s(pids[part]) - before[part]) / traffic.seconds * 100)
            commands.add(name, traffic.commands / traffic.seconds)
        assert running.redis.zcard("launch:parked:queue:default/default") == runs
        holder.cancel()
        wait_until(lambda: api.store.counts()[RunState.FINISHED] > 1)
        first, began = api.store.counts()[RunState.FINISHED], time.monotonic()
        wait_until(lambda: time.monotonic() > began + 3 or api.store.counts()[RunState.FINISHED] >= runs)
        wakes.add(all_parked, (api.store.counts()[RunState.FINISHED] - first) / (time.monotonic() - began))
