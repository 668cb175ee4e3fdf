"""Plain Celery as its docs have it for jobs that must not be lost: threads, late acknowledgement, results in Redis."""

from __future__ import annotations

import subprocess

from celery import Celery

from bench.peers.producer import REDIS_URL, serve

app = Celery("bench", broker=REDIS_URL, backend=REDIS_URL)
app.conf.update(task_acks_late=True)


def run(argv: list[str]) -> int:
    return subprocess.run(argv, check=False).returncode


task = app.task(run, name="bench.run")


def produce() -> None:
    serve(task.delay)
