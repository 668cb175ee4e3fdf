"""Asks an engine something in a thread of its own: an engine that hangs, or a registry, cannot be hurried."""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from launch_worker.errors import StartGivenUpError

T = TypeVar("T")


def ask(call: Callable[[], T], events: queue.SimpleQueue[Any], *, deadline: float = math.inf) -> T:
    """Return the engine's answer, unless something happens to the run meanwhile.

    Raises what the call raises, StartGivenUpError when an event arrives, TimeoutError after the deadline. Then the call
    may go on, so it must be one that starts no job.
    """
    answers: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def answer() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:  # noqa: BLE001 (raised again below)
            answers.put((None, error))

    threading.Thread(target=answer, name="container-ask", daemon=True).start()
    while True:
        if not events.empty():
            raise StartGivenUpError
        if time.monotonic() > deadline:
            raise TimeoutError
        with contextlib.suppress(queue.Empty):
            result, problem = answers.get(timeout=0.1)
            if problem is not None:
                raise problem
            return result  # type: ignore[return-value]
