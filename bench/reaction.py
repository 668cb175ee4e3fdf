"""How soon a person's word reaches a job, and a job's output a person."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from bench.measure import BenchError, Results, cpu_s, wait_until
from bench.systems import LAUNCH, Running
from launch_worker.api.client import Api, Run, submit
from launch_worker.model.states import RunState
from launch_worker.settings import Settings

_FLOOD_BYTES = 30 << 20
_WRITE_FLOOD = f"import os\nfor _ in range({_FLOOD_BYTES >> 16}): os.write(1, b'0123456789abcde\\n' * 4096)"


def cancel(results: Results, *, rounds: int, repeat: int) -> None:
    """From the call to the job's end, which ends at SIGTERM; and to the run's final state."""
    to_job = results.metric("cancel to the job's end", "ms")
    to_state = results.metric("cancel to Killed", "ms")
    with Running(LAUNCH) as running:
        api = _api(running)
        running.stamp()
        for _ in range(rounds):
            for _ in range(repeat):
                run = submit(["/bin/sleep", "60"], api=api)
                pid = wait_until(lambda run=run: run.refresh().pid)  # type: ignore[misc]
                began = time.monotonic()
                run.cancel()
                wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), turn_s=0.0005)  # type: ignore[misc]
                to_job.add("launch_worker", (time.monotonic() - began) * 1000)
                _ended(run, RunState.KILLED)
                to_state.add("launch_worker", (time.monotonic() - began) * 1000)


def log_latency(results: Results, *, rounds: int, repeat: int) -> None:
    """From a job's write of a line to who follows it."""
    metric = results.metric("log line to follower", "ms")
    # The time stands in the line; between two it does nothing.
    job = f"import time\nfor _ in range({repeat}): print(time.monotonic_ns(), flush=True); time.sleep(0.1)"
    with Running(LAUNCH) as running:
        api = _api(running)
        running.stamp()
        for _ in range(rounds):
            run = submit([sys.executable, "-c", job], api=api)
            for _, data in run.follow():
                now = time.monotonic_ns()
                for line in data.split():
                    metric.add("launch_worker", (now - int(line)) / 1e6)


def flood(results: Results, *, rounds: int) -> None:
    """30 MB of output, beside the same program that writes to a file."""
    took = results.metric("30 MB of output", "s", baseline="to a file", goal="at most 2 s more")
    cpu = results.metric("CPU of the worker for 30 MB", "s")
    argv = [sys.executable, "-c", _WRITE_FLOOD]
    with Running(LAUNCH) as running:
        api = _api(running)
        running.stamp()
        for _ in range(rounds):
            began = time.monotonic()
            with (running.folder / "flood").open("wb") as file:
                pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, file.fileno(), 1)])
                os.waitpid(pid, 0)
            took.add("to a file", time.monotonic() - began)
            before, began = cpu_s(running.worker_pid), time.monotonic()
            _ended(submit(argv, api=api), RunState.FINISHED)
            took.add("launch_worker", time.monotonic() - began)
            cpu.add("launch_worker", cpu_s(running.worker_pid) - before)


def _api(running: Running) -> Api:
    return Api(settings=Settings.from_env({}, redis_url=running.url))


def _ended(run: Run, state: RunState) -> None:
    ended = run.wait(60)
    if ended is not state:
        raise BenchError(f"run {run.id} is {ended}: {run.refresh().reason}")
