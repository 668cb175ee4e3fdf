"""Wakes Celery's loop from other threads, and when a slot of its pool comes free."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class LoopWaker:
    """Wakes Celery's loop from another thread: without an event on a socket the loop looks only now and then."""

    def __init__(self) -> None:
        self._fd: int | None = None

    def connect(self, hub: Any) -> None:
        """Wake this loop from now on."""
        reading, self._fd = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(self._fd, False)
        hub.add_reader(reading, lambda: os.read(reading, 4096))

    def wake(self) -> None:
        """Wake the loop; from any thread."""
        if self._fd is not None:
            # A full pipe wakes the loop as well.
            with contextlib.suppress(BlockingIOError):
                os.write(self._fd, b"\0")


class WakingExecutor(ThreadPoolExecutor):
    """The threads of Celery's pool; each wakes the loop when it has become free, which nothing else tells the loop."""

    def __init__(self, waker: LoopWaker, max_workers: int) -> None:
        super().__init__(max_workers)
        self._waker = waker

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Call in a thread, then wake the loop."""

        def do() -> T:
            try:
                return fn(*args, **kwargs)
            finally:
                self._waker.wake()

        return super().submit(do)

    def submit_quietly(self, fn: Callable[[], object]) -> None:
        """Call in a thread, without waking the loop; does nothing once the pool was shut down."""
        with contextlib.suppress(RuntimeError):
            super().submit(fn)
