"""RQ, with its own retries."""

from __future__ import annotations

import subprocess

from redis import Redis
from rq import Queue, Retry
from rq.command import send_stop_job_command
from rq.exceptions import NoSuchJobError
from rq.job import Job

from bench.kill.peers.link import REDIS_URL, RETRIES, serve

_WORDS = {"started": "running", "finished": "done", "failed": "failed", "stopped": "cancelled", "canceled": "cancelled"}


def run(argv: list[str]) -> int:
    return subprocess.run(argv, check=True).returncode


def main() -> None:
    connection = Redis.from_url(REDIS_URL)
    queue = Queue("default", connection=connection)

    def submit(_name: str, argv: list[str]) -> str:
        job = queue.enqueue("bench.kill.peers.rq_peer.run", argv, retry=Retry(max=RETRIES))
        return str(job.id)

    def state(job_id: str) -> str:
        try:
            status = Job.fetch(job_id, connection=connection).get_status()
        except NoSuchJobError:
            return "unknown"
        return _WORDS.get(status.value, "waiting") if status else "unknown"

    serve(submit, state, lambda job_id, _hard: send_stop_job_command(connection, job_id))


if __name__ == "__main__":
    main()
