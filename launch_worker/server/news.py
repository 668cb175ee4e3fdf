"""Wakes the streams of a server by Redis' news: one subscription for all of them."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from launch_worker.errors import LaunchError
from launch_worker.store.store import Store

log = logging.getLogger("launch_worker.server")

#: Seconds between two tries to subscribe while Redis is away.
_PAUSE_S = 1.0


class News:
    """Knows who waits for news of which run, group or sweep. The subscription begins with the first who waits."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def of(self, thing: str) -> Iterator[asyncio.Event]:
        """Yield an event that is set at each news of a run, group or sweep; in the server's loop only."""
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._listen, name="news", daemon=True)
            self._thread.start()
        woken = asyncio.Event()
        self._waiting.setdefault(thing, set()).add(woken)
        try:
            yield woken
        finally:
            self._waiting[thing].discard(woken)
            if not self._waiting[thing]:
                del self._waiting[thing]

    def stop(self) -> None:
        """End the subscription; for before the store is closed."""
        self._is_stopping.set()
        if self._thread is not None:
            self._thread.join()

    def _listen(self) -> None:
        while not self._is_stopping.is_set():
            try:
                self._store.listen_to_all(on_news=self._tell, stopped=self._is_stopping.is_set)
            except LaunchError as error:
                log.debug("news.away: %s", error)
                self._is_stopping.wait(_PAUSE_S)

    def _tell(self, thing: str) -> None:
        if thing in self._waiting and self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake, thing)

    def _wake(self, thing: str) -> None:
        for woken in self._waiting.get(thing, ()):
            woken.set()
