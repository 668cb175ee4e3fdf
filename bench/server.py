"""What the server costs: many runs in one request, one at a time, many clients at once, beside the same over Redis."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import psutil

from bench.measure import BenchError, Results, own_cpu_s, percentile, pss_mib, wait_until
from bench.producing import process
from bench.systems import LAUNCH, Running
from launch_worker.api.client import Api
from launch_worker.ids import new_run_id
from launch_worker.settings import Settings
from launch_worker.submission.options import read_options

#: The line that a server prints on loopback: its URL and its key.
_PRINTED = re.compile(r"(http://[^/\s]+)/\?token=(\S+)")
_DIRECT, _SERVED = "over Redis", "through a server"
_CLIENTS = 50


def bulk(results: Results, *, rounds: int, runs: int) -> None:
    """Runs a second that one client hands over in one call, over Redis and through a server in turns."""
    rate = results.metric("bulk submit through a server", "/s", baseline=_DIRECT, goal="5,000/s")
    checked = results.metric("submit_many through a server", "/s", baseline=_DIRECT)
    with Running(LAUNCH, start=False) as running:
        url, key, _ = start_server(running)
        ways = _ways(running, url, key)
        for turn in range(rounds + 1):
            for name, api in ways.items():
                sent_s, checked_s = _seconds(api, runs, check=False), _seconds(api, runs, check=True)
                # The first turn opens connections.
                if turn:
                    rate.add(name, runs / sent_s)
                    checked.add(name, runs / checked_s)


def bulk_cpu(results: Results, *, rounds: int, runs: int) -> None:
    """The same request without a client that makes it: its rate, and the CPU of each process until all is archived."""
    rate = results.metric("bulk request that is there already", "/s", goal="5,000/s")
    cpu = results.metric(f"CPU of {runs:,} runs in one request", "s")
    memory = results.metric("memory after them, PSS", "MiB")
    body = (json.dumps({"command": ["true"]}) + "\n").encode() * runs
    with Running(LAUNCH, start=False) as running:
        url, key, pid = start_server(running)
        parts = {"server": pid, "archive": psutil.Process(pid).children()[0].pid, "Redis": running.redis_pid}
        connection = HTTPConnection(url.removeprefix("http://"))
        for turn in range(rounds + 1):
            before = {name: own_cpu_s(part) for name, part in parts.items()}
            began = time.perf_counter()
            answer = _post(connection, "/api/v1/runs/bulk", key, body)
            seconds = time.perf_counter() - began
            if answer.count(b"\n") != runs:
                raise BenchError(f"the answer has {answer.count(b'{')} lines")
            wait_until(lambda: _archived(running) == (turn + 1) * runs, timeout_s=120, what="all is archived")  # noqa: B023
            if turn:
                rate.add("server", runs / seconds)
                for name, part in parts.items():
                    cpu.add(name, own_cpu_s(part) - before[name])
        whole = pss_mib(pid)
        memory.add("archive", archive := pss_mib(parts["archive"]))
        memory.add("server", whole - archive)


def single(results: Results, *, rounds: int, repeat: int) -> None:
    """One submission after the other, then many clients at once, each with its one connection."""
    each = results.metric("submit one at a time through a server", "ms", baseline=_DIRECT, goal="3 ms more")
    cpu = results.metric("CPU of a submission", "ms")
    rate = results.metric(f"{_CLIENTS} clients submit", "/s")
    late = results.metric(f"{_CLIENTS} clients submit, p99", "ms")
    with Running(LAUNCH, start=False) as running:
        url, key, pid = start_server(running)
        ways = _ways(running, url, key)
        parts = {"server": pid, "archive": psutil.Process(pid).children()[0].pid}
        with ThreadPoolExecutor(_CLIENTS) as clients:
            for turn in range(rounds + 1):
                took: dict[str, list[float]] = {name: [] for name in ways}
                for _ in range(repeat):
                    for name, api in ways.items():
                        took[name].append(_seconds(api, 1, check=False) * 1000)
                before = {name: own_cpu_s(part) for name, part in parts.items()}
                began = time.perf_counter()
                answered = [clients.submit(_submits, url, key, repeat // 10) for _ in range(_CLIENTS)]
                many = [ms for one in answered for ms in one.result()]
                seconds = time.perf_counter() - began
                if turn:
                    for name, values in took.items():
                        each.add(name, percentile(values, 0.5))
                    rate.add(_SERVED, len(many) / seconds)
                    late.add(_SERVED, percentile(many, 0.99))
                    for name, part in parts.items():
                        cpu.add(name, (own_cpu_s(part) - before[name]) / len(many) * 1000)


def command(results: Results, *, rounds: int) -> None:
    """`launch-submit` through a server beside itself over Redis, in turns."""
    wall = results.metric("launch-submit through a server, wall", "ms", baseline=_DIRECT, goal="1.5 x over Redis")
    cpu = results.metric("launch-submit through a server, CPU", "ms", baseline=_DIRECT)
    words = [str(LAUNCH.bin / "launch-submit"), "--quiet", "--", "/bin/true"]
    with Running(LAUNCH, start=False) as running:
        url, key, _ = start_server(running)
        served = {name: value for name, value in running.env.items() if name != "LAUNCH_REDIS_URL"}
        ways = {_DIRECT: running.env, _SERVED: served | {"LAUNCH_API_URL": url, "LAUNCH_API_TOKEN": key}}
        for turn in range(rounds + 1):
            for name, env in ways.items():
                wall_s, cpu_s = process(words, env)
                if turn:
                    wall.add(name, wall_s * 1000)
                    cpu.add(name, cpu_s * 1000)


def start_server(running: Running) -> tuple[str, str, int]:
    """Start a server beside a system; returns its URL, its key and its process."""
    pid = running.start([f"{LAUNCH.bin}/launch-worker", "server", "--no-celery", "--address", "127.0.0.1:0"])
    log = running.folder / "log"
    wait_until(lambda: _PRINTED.search(log.read_text()) is not None, timeout_s=30)
    found = _PRINTED.search(log.read_text())
    assert found is not None
    return found[1], found[2], pid


def _seconds(api: Api, runs: int, *, check: bool) -> float:
    items = [read_options({"command": ["true"], "id": new_run_id()}) for _ in range(runs)]
    began = time.perf_counter()
    if check:
        api.transport.check_items(items, strict=False)
    for _ in api.transport.send_items(items):
        pass
    return time.perf_counter() - began


def _ways(running: Running, url: str, key: str) -> dict[str, Api]:
    return {
        _DIRECT: Api(settings=Settings.from_env(running.env)),
        _SERVED: Api(settings=Settings(api_url=url, api_token=key)),
    }


def _submits(url: str, key: str, repeat: int) -> Sequence[float]:
    """The milliseconds of some submissions by one connection."""
    connection = HTTPConnection(url.removeprefix("http://"))
    took = []
    for _ in range(repeat):
        began = time.perf_counter()
        _post(connection, "/api/v1/runs", key, b'{"command": ["true"]}')
        took.append((time.perf_counter() - began) * 1000)
    connection.close()
    return took


def _post(connection: HTTPConnection, path: str, key: str, body: bytes) -> bytes:
    connection.request("POST", path, body, {"Authorization": f"Bearer {key}", "Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    if response.status >= 300:
        raise BenchError(f"the server answers {response.status}: {answer[:300]!r}")
    return answer


def _archived(running: Running) -> int:
    """The number of runs in the server's archive."""
    database = sqlite3.connect(Path(running.env["LAUNCH_WORK_DIR"]) / "archive.db", timeout=30)
    try:
        return int(database.execute("SELECT count(*) FROM runs").fetchone()[0])
    finally:
        database.close()
