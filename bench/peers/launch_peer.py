"""launch_worker: the producer that `launch_worker.api` is."""

from __future__ import annotations

from collections.abc import Sequence

from bench.peers.producer import REDIS_URL, Argv, serve
from launch_worker.api.client import Api, submit, submit_many


def produce() -> None:
    api = Api(REDIS_URL)

    def many(jobs: Sequence[Argv]) -> None:
        submit_many([{"command": argv} for argv in jobs], api=api)

    serve(lambda argv: submit(argv, api=api), many=many)
