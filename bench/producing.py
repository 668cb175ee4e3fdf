"""What submitting costs: in bulk from one process, and as the command that a person types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.measure import BenchError, Results
from bench.systems import CELERY, LAUNCH, RQ, Running, System

_ONE_BY_ONE = 500
_PRODUCERS = ((CELERY, False), (LAUNCH, False), (LAUNCH, True), (RQ, True))


def bulk(results: Results, *, rounds: int, runs: int, systems: Sequence[System] = (CELERY, LAUNCH, RQ)) -> None:
    """Jobs a second that one producer hands over, while nobody takes them."""
    rate = results.metric("bulk submit", "/s", baseline="celery one by one", goal="12,000/s")
    singly = results.metric("submit one at a time", "ms", baseline="celery one by one", goal="1 ms")
    job: Sequence[str] = ["/bin/true"]
    producers = [(system, many) for system, many in _PRODUCERS if system in systems]
    for _ in range(rounds):
        for system, many in producers:
            with Running(system, start=False) as running:
                running.submit([(job, 20)])
                count = runs if many else min(runs, _ONE_BY_ONE)
                began, ended = running.submit([(job, count)], many=many)
            seconds = (ended - began) / 1e9
            rate.add(_name(system, many), count / seconds)
            if not many:
                singly.add(_name(system, many), seconds / count * 1000)
        with Running(LAUNCH, start=False) as running:
            file = running.folder / "jobs.jsonl"
            file.write_text((json.dumps({"command": list(job)}) + "\n") * runs)
            wall_s, _ = process([str(LAUNCH.bin / "launch-submit"), "--quiet", "--from-file", str(file)], running.env)
            rate.add("launch-submit --from-file", runs / wall_s)


def _name(system: System, many: bool) -> str:
    return system.name if many else f"{system.name} one by one"


def command(results: Results, *, rounds: int, repeat: int) -> None:
    """`launch-submit` beside the import that it cannot do without, in turns."""
    wall = results.metric("launch-submit, wall", "ms", baseline="import redis", goal="1.2 x import redis")
    cpu = results.metric("launch-submit, CPU", "ms", baseline="import redis")
    python = str(Path(sys.executable))
    with Running(LAUNCH, start=False) as running:
        submit = [str(LAUNCH.bin / "launch-submit"), "--quiet", "--", "/bin/true"]
        commands = {"import redis": [python, "-c", "import redis"], "launch-submit": submit}
        commands |= {"python -c pass": [python, "-c", "pass"]}
        for argv in commands.values():
            process(argv, running.env)
        for _ in range(rounds):
            for name, argv in commands.items():
                measured = sorted(process(argv, running.env) for _ in range(repeat))
                wall_s, cpu_s = measured[repeat // 2]
                wall.add(name, wall_s * 1000)
                cpu.add(name, cpu_s * 1000)


def process(argv: Sequence[str], env: dict[str, str]) -> tuple[float, float]:
    """Wall and CPU seconds of a process."""
    began = time.perf_counter()
    process = subprocess.Popen(
        argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise BenchError(f"{argv[0]} ended with {process.returncode}")
    return time.perf_counter() - began, used.ru_utime + used.ru_stime
