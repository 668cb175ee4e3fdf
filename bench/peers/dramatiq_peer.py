"""dramatiq: one process with threads, Redis broker."""

from __future__ import annotations

import subprocess

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from bench.peers.producer import REDIS_URL, serve

dramatiq.set_broker(RedisBroker(url=REDIS_URL))


def run(argv: list[str]) -> None:
    subprocess.run(argv, check=False)


task = dramatiq.actor(run, actor_name="bench_run")


def produce() -> None:
    serve(task.send)
