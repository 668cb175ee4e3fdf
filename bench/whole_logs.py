"""What it costs to keep a million lines whole, and how soon a person sees the end of them, a line, a word."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from bench.measure import BenchError, Results, cpu_s, time_ms, wait_until
from bench.systems import LAUNCH, Running
from launch_worker.api.client import Api, Run, submit
from launch_worker.logs.stored import StoredLogs
from launch_worker.model.states import RunState
from launch_worker.settings import Settings

LINES = 1_000_000
#: Prints a million lines of 54 bytes as a training does: many alike, none the same.
_JOB = f"""
import os
for at in range(0, {LINES}, 1000):
    line = "2030-01-31 14:30:00 INFO step={{:07}} loss=0.{{:05}} ok\\n"
    text = "".join(line.format(n, n * 7919 % 99991) for n in range(at, at + 1000))
    left = text.encode()
    while left:
        left = left[os.write(1, left):]
"""
_WITHOUT, _WITH = "without LAUNCH_LOG_URL", "launch_worker"


def measure(results: Results, *, rounds: int, repeat: int) -> None:
    """The job's own time, with and without whole logs, in turns; then what reading takes."""
    took = results.metric("54 MB in a million lines", "s", baseline=_WITHOUT, goal="about 1")
    cpu = results.metric("CPU of the worker for them", "s", baseline=_WITHOUT)
    memory = results.metric("worker's memory over idle meanwhile", "MiB", goal="bounded: under 60")
    stored_in = results.metric("from the run's end until all is stored", "s")
    with Running(LAUNCH) as plain, Running(LAUNCH, start=False) as whole:
        url = f"file://{whole.folder}/logs"
        whole.env["LAUNCH_LOG_URL"] = url
        whole.start_worker()
        apis = {_WITHOUT: _api(plain, ""), _WITH: _api(whole, url)}
        for name, running in ((_WITHOUT, plain), (_WITH, whole)):
            running.stamp()
            execute(apis[name])  # the libraries are loaded
        run = execute(apis[_WITH])
        wait_until_stored(url, run)
        for _ in range(rounds):
            for name, running in ((_WITHOUT, plain), (_WITH, whole)):
                before = cpu_s(running.worker_pid)
                with _peak(running.worker_pid) as peak:
                    run = execute(apis[name])
                    ended = time.monotonic()
                    if name == _WITH:
                        wait_until_stored(url, run)
                        stored_in.add(name, time.monotonic() - ended)
                record = run.refresh()
                assert record.ended_at is not None
                assert record.started_at is not None
                took.add(name, (record.ended_at - record.started_at) / 1e6)
                cpu.add(name, cpu_s(running.worker_pid) - before)
                memory.add(name, peak[0])
        _read(results, run, repeat=repeat)


def _read(results: Results, run: Run, *, repeat: int) -> None:
    def read(**wanted: object) -> bytes:
        return run.logs(**wanted)  # type: ignore[arg-type]

    def jump() -> None:
        if not read(from_line=random.randrange(1, LINES), lines=50):
            raise BenchError("a line is not there")

    def search() -> None:
        if read(grep="step=0999999.*ok").count(b"\n") != 1:
            raise BenchError("the last line is not found")

    for name, goal, call in (
        ("open a million lines at the end", "at most 100", lambda: read(tail=100)),
        ("jump to a line", "at most 40", jump),
        ("search of 54 MB", "at most 500", search),
        ("read of all", "", read),
    ):
        metric = results.metric(name, "ms", goal=goal)
        for _ in range(repeat):
            began = time.process_time()
            metric.add(_WITH, time_ms(call))
            # What it would take on a quiet machine, about.
            metric.add("… CPU of the reader", (time.process_time() - began) * 1000)


def _api(running: Running, log_url: str) -> Api:
    return Api(settings=Settings.from_env({"LAUNCH_LOG_URL": log_url}, redis_url=running.url))


def execute(api: Api) -> Run:
    run = submit([sys.executable, "-c", _JOB], api=api)
    if run.wait(120) is not RunState.FINISHED:
        raise BenchError(f"run {run.id} is {run.state}: {run.refresh().reason}")
    return run


def wait_until_stored(url: str, run: Run) -> None:
    stored = StoredLogs(url)

    def is_stored() -> bool:
        manifest = stored.manifest(run.id, 1)
        return manifest is not None and manifest.is_complete and len(manifest.names) == 1

    wait_until(is_stored, what="the log is stored")
    manifest = stored.manifest(run.id, 1)
    if manifest is None or (manifest.kept_bytes, manifest.end_line) != (manifest.end, LINES):
        raise BenchError("the log is not whole")


@contextmanager
def _peak(pid: int) -> Iterator[list[float]]:
    """The most memory that a process has meanwhile, over what it had before, in MiB."""
    process, over = psutil.Process(pid), threading.Event()
    before = process.memory_info().rss
    peak = [0.0]

    def watch() -> None:
        while not over.wait(0.02):
            peak[0] = max(peak[0], (process.memory_info().rss - before) / (1 << 20))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()
