"""The producing end of every system, in its own environment: orders come by stdin, times go to stdout.

Standard library only. An order is a JSON object a line: {"jobs": [[argv, count], …]}; the answer is the monotonic
nanoseconds before the first and after the last job was handed over.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence

REDIS_URL = os.environ.get("BENCH_REDIS_URL", "redis://localhost:6379/0")

Argv = Sequence[str]


def wait_until(condition: Callable[[], object]) -> None:
    """For what a worker makes while it starts."""
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("the worker does not start")
        time.sleep(0.01)


def serve(one: Callable[[Argv], object], *, many: Callable[[Sequence[Argv]], object] | None = None) -> None:
    """Hand over what is ordered, one by one, or with `many` all at once where an order asks for that."""
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        jobs = [argv for argv, count in order["jobs"] for _ in range(count)]
        began = time.monotonic_ns()
        if order.get("many") and many is not None:
            many(jobs)
        else:
            for argv in jobs:
                one(argv)
        print(json.dumps([began, time.monotonic_ns()]), flush=True)
