"""What this machine can do at most: a bare posix_spawn loop, and `xargs -P`."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence


def spawn_rate(argv: Sequence[str], *, count: int, slots: int) -> float:
    """Jobs a second of a loop that starts processes, so many in flight, and reaps them."""
    began = time.monotonic()
    running = 0
    for _ in range(count):
        if running == slots:
            os.wait()
            running -= 1
        os.posix_spawn(argv[0], [*argv], os.environ)
        running += 1
    for _ in range(running):
        os.wait()
    return count / (time.monotonic() - began)


def xargs_rate(argv: Sequence[str], *, count: int, slots: int) -> float:
    """The same of `xargs -P`."""
    began = time.monotonic()
    subprocess.run(
        ["xargs", "-P", str(slots), "-n", "1", *argv],
        input="x\n" * count,
        text=True,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return count / (time.monotonic() - began)
