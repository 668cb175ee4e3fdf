"""huey: processes, blocking Redis queue, its own retries. It records results, and no state of a task that runs."""

from __future__ import annotations

import subprocess

from huey import RedisHuey
from huey.exceptions import TaskException

from bench.kill.peers.link import REDIS_URL, RETRIES, serve

huey = RedisHuey("kill", url=REDIS_URL)


def run(argv: list[str]) -> bool:
    subprocess.run(argv, check=True)
    return True


task = huey.task(retries=RETRIES, retry_delay=1, name="kill_run")(run)


def _state(task_id: str) -> str:
    waiting = [found.id for found in (*huey.pending(), *huey.scheduled())]
    if task_id in waiting:
        return "waiting"
    try:
        return "done" if huey.result(task_id, preserve=True) else "unknown"
    except TaskException:
        return "failed"


def main() -> None:
    serve(lambda _name, argv: str(task(argv).id), _state, lambda task_id, _hard: huey.revoke_by_id(task_id))


if __name__ == "__main__":
    from bench.kill.peers.huey_peer import main as imported

    imported()
