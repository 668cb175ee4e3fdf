"""runqd (gflow): a daemon of one machine that runs each job in a session of tmux."""

from __future__ import annotations

import json
import re
import shlex
import subprocess

from bench.kill.peers.link import RETRIES, serve

_WORDS = {"Running": "running", "Finished": "done", "Failed": "failed", "Timeout": "failed", "Cancelled": "cancelled"}


def _said(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=10).stdout


def main() -> None:
    known: dict[int, str] = {}

    def submit(name: str, argv: list[str]) -> int:
        said = _said("gbatch", "--name", name, "--max-retries", str(RETRIES), "sh", "-c", shlex.join(argv))
        found = re.search(r"job (\d+)", said)
        if found is None:
            raise ValueError(f"gbatch said no id: {said!r}")
        number = int(found[1])
        known[number] = "waiting"
        return number

    def state(number: int) -> str:
        # One listing answers for all jobs: it is asked for with the first of them.
        if number == min(known):
            listed = json.loads(_said("gqueue", "-a", "-u", "all", "-o", "json"))["jobs"]
            told = {job["id"]: _WORDS.get(job["state"], "waiting") for job in listed}
            known.update({job: told.get(job, "unknown") for job in known})
        return known[number]

    serve(submit, state, lambda number, _hard: _said("gcancel", str(number)))


if __name__ == "__main__":
    main()
