"""Wakes Celery's loop from other threads, and when a slot of its pool comes free."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ClassVar, TypeVar

T = TypeVar("T")


class LoopWaker:
    """Wakes Celery's loop from another thread: without an event on a socket it looks only every now and then."""

    _fd: ClassVar[int | None] = None

    @classmethod
    def watch_from(cls, hub: Any) -> None:
        reading, cls._fd = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(cls._fd, False)
        hub.add_reader(reading, lambda: os.read(reading, 4096))

    @classmethod
    def wake(cls) -> None:
        if cls._fd is not None:
            # A full pipe wakes as well.
            with contextlib.suppress(BlockingIOError):
                os.write(cls._fd, b"\0")


class WakingExecutor(ThreadPoolExecutor):
    """The threads of Celery's pool. Once a task is over its slot is free, and the loop has to look."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        def do() -> T:
            try:
                return fn(*args, **kwargs)
            finally:
                LoopWaker.wake()

        return super().submit(do)
