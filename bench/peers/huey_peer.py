"""huey: threads, blocking Redis queue."""

from __future__ import annotations

import subprocess

from huey import RedisHuey

from bench.peers.producer import REDIS_URL, serve

huey = RedisHuey("bench", url=REDIS_URL)


def run(argv: list[str]) -> int:
    return subprocess.run(argv, check=False).returncode


task = huey.task(name="bench_run")(run)


def produce() -> None:
    serve(task)
