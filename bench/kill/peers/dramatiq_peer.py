"""dramatiq: threads, Redis broker, results. It records results, and no state of a message that is worked on."""

from __future__ import annotations

import subprocess
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import ResultFailure, ResultMissing, Results
from dramatiq.results.backends import RedisBackend

from bench.kill.peers.link import REDIS_URL, RETRIES, serve

results = RedisBackend(url=REDIS_URL)
broker = RedisBroker(url=REDIS_URL, heartbeat_timeout=10_000, maintenance_chance=100_000)
broker.add_middleware(Results(backend=results))
dramatiq.set_broker(broker)


def run(argv: list[str]) -> int:
    return subprocess.run(argv, check=True).returncode


task = dramatiq.actor(run, actor_name="kill_run", store_results=True, max_retries=RETRIES, min_backoff=1000)


def _state(message: Any) -> str:
    try:
        message.get_result(backend=results, block=False)
    except ResultMissing:
        return "unknown"
    except ResultFailure:
        return "failed"
    return "done"


def main() -> None:
    serve(lambda _name, argv: task.send(argv), _state)


if __name__ == "__main__":
    from bench.kill.peers.dramatiq_peer import main as imported

    imported()
