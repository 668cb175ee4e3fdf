"""HyperQueue as its wheel has it: server and worker in one process (`LocalCluster`), and a client in another."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from hyperqueue import Client, Job
from hyperqueue.cluster import LocalCluster, WorkerConfig

from bench.kill.peers.link import serve

FOLDER = os.environ.get("KILL_FOLDER", ".") + "/hyperqueue"


class _AskedError(Exception):
    pass


def worker() -> None:
    """Serve and work until a signal ends this process."""
    os.makedirs(FOLDER, exist_ok=True)
    with LocalCluster(FOLDER, WorkerConfig(cores=4)):
        while True:
            time.sleep(60)


def main() -> None:
    client: Client | None = None

    def connected() -> Client:
        nonlocal client
        client = client or Client(FOLDER)
        return client

    def submit(_name: str, argv: list[str]) -> int:
        job = Job(max_fails=None)
        job.program(argv, stdout=None, stderr=None)
        return int(connected().submit(job).id)

    def state(job_id: int) -> str:
        nonlocal client
        found: dict[int, dict[str, Any]] = {}

        def look(jobs: dict[int, dict[str, Any]]) -> None:
            found.update(jobs)
            raise _AskedError

        try:
            client = connected()
            client.connection.wait_for_jobs([job_id], look)
        except _AskedError:
            pass
        except BaseException:  # noqa: BLE001 (a panic of its library is no Exception)
            # The server is gone, or the one that took its place does not know the job.
            client = None
            return "unknown"
        told = found.get(job_id, {"completed": False})
        return "unknown" if not told["completed"] else "failed" if told["failed"] else "done"

    serve(submit, state)


if __name__ == "__main__":
    worker() if sys.argv[1:] == ["worker"] else main()
