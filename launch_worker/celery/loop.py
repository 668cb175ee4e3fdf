"""Wakes Celery's loop, and hands it many events at once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ClassVar, TypeVar

T = TypeVar("T")


class Bell:
    """Wakes Celery's loop from another thread: without an event on a socket it looks only every now and then."""

    _fd: ClassVar[int | None] = None

    @classmethod
    def hang(cls, hub: Any) -> None:
        reading, cls._fd = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(cls._fd, False)
        hub.add_reader(reading, lambda: os.read(reading, 4096))

    @classmethod
    def ring(cls) -> None:
        if cls._fd is not None:
            # A full pipe wakes as well.
            with contextlib.suppress(BlockingIOError):
                os.write(cls._fd, b"\0")


class RingingExecutor(ThreadPoolExecutor):
    """The threads of Celery's pool. Once a task is over its slot is free, and only the bell tells the loop."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        def do() -> T:
            try:
                return fn(*args, **kwargs)
            finally:
                Bell.ring()

        return super().submit(do)
