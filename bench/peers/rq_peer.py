"""RQ: a worker pool."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from redis import Redis
from rq import Queue

from bench.peers.producer import REDIS_URL, Argv, serve


def run(argv: list[str]) -> int:
    return subprocess.run(argv, check=False).returncode


def produce() -> None:
    queue = Queue("default", connection=Redis.from_url(REDIS_URL))

    def many(jobs: Sequence[Argv]) -> None:
        queue.enqueue_many([Queue.prepare_data("bench.peers.rq_peer.run", (argv,)) for argv in jobs])

    def one(argv: Argv) -> None:
        queue.enqueue("bench.peers.rq_peer.run", argv)

    serve(one, many=many)
