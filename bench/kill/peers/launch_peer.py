"""launch_worker, by the API that its users have."""

from __future__ import annotations

from bench.kill.peers.link import REDIS_URL, RETRIES, serve
from launch_worker.api.client import Api
from launch_worker.api.run import Run

_WORDS = {"Pending": "waiting", "Running": "running", "Finished": "done", "Killed": "cancelled"}


def main() -> None:
    api = Api(REDIS_URL)

    def submit(name: str, argv: list[str]) -> Run:
        return api.submit({"command": argv, "name": name, "retries": RETRIES})

    def state(run: Run) -> str:
        run.update()
        return _WORDS.get(run.state, "failed")

    serve(submit, state, lambda run, _hard: run.cancel())


if __name__ == "__main__":
    main()
