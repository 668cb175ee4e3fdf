"""Plain Celery: its default early acknowledgement, or with KILL_LATE the settings of its docs for lost workers."""

from __future__ import annotations

import os
import subprocess

from celery import Celery
from celery.result import AsyncResult

from bench.kill.peers.link import REDIS_URL, RETRIES, serve

app = Celery("kill", broker=REDIS_URL, backend=REDIS_URL)
app.conf.update(
    task_track_started=True,
    broker_connection_retry_on_startup=True,
    # Also with early acknowledgement: what a worker has taken and not begun is delivered again after it.
    broker_transport_options={"visibility_timeout": 20, "unacked_restore_interval": 2, "unacked_restore_throttle": 1},
)
if os.environ.get("KILL_LATE"):
    app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True, worker_prefetch_multiplier=1)


def run(argv: list[str]) -> int:
    return subprocess.run(argv, check=True).returncode


task = app.task(
    run,
    name="kill.run",
    autoretry_for=(subprocess.CalledProcessError,),
    max_retries=RETRIES,
    default_retry_delay=1,
)

_WORDS = {"PENDING": "unknown", "RETRY": "waiting", "STARTED": "running", "SUCCESS": "done", "REVOKED": "cancelled"}


def _state(result: AsyncResult[int]) -> str:
    return _WORDS.get(result.state, "failed")


def _cancel(result: AsyncResult[int], hard: bool) -> None:
    app.control.revoke(result.id, terminate=True, signal="SIGKILL" if hard else "SIGTERM")


def main() -> None:
    serve(lambda _name, argv: task.delay(argv), _state, _cancel)


if __name__ == "__main__":
    from bench.kill.peers.celery_peer import main as imported

    imported()
