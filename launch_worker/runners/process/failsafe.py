"""Keeps the guard alive whatever goes wrong: all jobs of its worker end with it. Standard library only."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any

#: Seconds of pause after a failure, so that one that repeats itself does not keep a core busy.
_PAUSE_S = 0.05
#: Number of failures that are printed.
_PRINTED = 20


class Failsafe:
    """Calls what may fail."""

    def __init__(self) -> None:
        self._failures = 0

    def call(self, what: str, serve: Callable[..., object], *args: Any, **named: Any) -> bool:
        """Call it; False when it failed. The first failures are printed into the worker's log."""
        try:
            serve(*args, **named)
        except Exception:  # noqa: BLE001 (all jobs of the worker end with this process)
            self._failures += 1
            if self._failures <= _PRINTED:
                with contextlib.suppress(Exception):
                    sys.stderr.write(f"guard.failed: {what}\n")
                    import traceback  # takes as long to import as all the rest, and a descriptor

                    traceback.print_exc()
            time.sleep(_PAUSE_S)
            return False
        return True
