"""HyperQueue: its wheel's LocalCluster, which is server and worker in one process."""

from __future__ import annotations

import logging
import signal
from collections.abc import Sequence
from pathlib import Path

from hyperqueue import Client, Job, LocalCluster
from hyperqueue.cluster import WorkerConfig

from bench.peers.producer import Argv, serve, wait_until

#: In the folder that worker and producer share.
_FOLDER = "hyperqueue"


def work(slots: int) -> None:
    Path(_FOLDER).mkdir()
    # One with a Path is refused by its own binding.
    with LocalCluster(str(Path(_FOLDER).absolute()), WorkerConfig(cores=slots)):
        signal.pause()


def produce() -> None:
    logging.disable()
    access = Path(_FOLDER) / "hq-current" / "access.json"
    wait_until(access.exists)
    client = Client(str(Path(_FOLDER).absolute()))

    def many(jobs: Sequence[Argv]) -> None:
        job = Job()
        for argv in jobs:
            job.program(list(argv))
        client.submit(job)

    serve(lambda argv: many([argv]), many=many)
