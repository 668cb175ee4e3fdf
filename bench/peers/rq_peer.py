"""RQ: a worker pool."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from producer import REDIS_URL, Argv, serve
from redis import Redis
from rq import Queue


def run(argv: list[str]) -> int:
    return subprocess.run(argv, check=False).returncode


def produce() -> None:
    queue = Queue("default", connection=Redis.from_url(REDIS_URL))

    def many(jobs: Sequence[Argv]) -> None:
        queue.enqueue_many([Queue.prepare_data("rq_peer.run", (argv,)) for argv in jobs])

    def one(argv: Argv) -> None:
        queue.enqueue("rq_peer.run", argv)

    serve(one, many=many)
