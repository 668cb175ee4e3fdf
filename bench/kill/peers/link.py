"""The end of the link in a system's own environment: orders come by stdin, answers go to stdout, a line of JSON each.

Standard library only. Orders: {"n", "do": "submit", "name", "argv"}, {"n", "do": "states"}, {"n", "do": "cancel",
"name", "hard"}; an answer has the same number and `answer` or `error`.
A state is one of the words waiting, running, done, failed, cancelled, or unknown: the system's record says nothing.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

REDIS_URL = os.environ.get("KILL_REDIS_URL", "redis://localhost:6379/0")
#: Attempts after the first that each system is asked for, where it has such a thing.
RETRIES = 2

Job = TypeVar("Job")


def serve(
    submit: Callable[[str, list[str]], Job],
    state: Callable[[Job], str],
    cancel: Callable[[Job, bool], object] | None = None,
) -> None:
    """Answer orders until stdin ends. `submit` gets a name and a command, and returns what the others are given."""
    jobs: dict[str, Job] = {}

    def done(order: dict[str, Any]) -> object:
        if order["do"] == "submit":
            jobs[order["name"]] = submit(order["name"], order["argv"])
            return None
        if order["do"] == "cancel":
            if cancel is None:
                raise LookupError("it has no way to cancel a job")
            cancel(jobs[order["name"]], order["hard"])
            return None
        return {name: state(job) for name, job in jobs.items()}

    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = {"n": order["n"], "answer": done(order)}
        except Exception as error:  # noqa: BLE001 (each system has errors of its own)
            answer = {"n": order["n"], "error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
