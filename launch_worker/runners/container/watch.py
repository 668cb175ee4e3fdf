"""Asks a worker's engine whether it answers, while the worker has containers: one thread for all of them."""

from __future__ import annotations

import logging
import threading
import time
from typing import Protocol

from launch_worker.errors import EngineAwayError
from launch_worker.runners.container.engine import Engine, address

log = logging.getLogger("launch_worker.container")

_EVERY_S = 3.0
#: Seconds for an answer that costs an engine nothing.
_ANSWER_S = 5.0
_SAY_AGAIN_S = 60.0


class Watcher(Protocol):
    """Gets to know whether the engine answers."""

    def note_away(self) -> None:
        """The engine does not answer. Never raises."""

    def note_answers(self) -> None:
        """The engine answers. Never raises."""


class EngineWatch:
    """Asks the engine again and again while there are watchers. Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._watchers: set[Watcher] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._said_at = 0.0
        #: Monotonic time since which the engine does not answer; None while it does.
        self.away_since: float | None = None

    def add(self, watcher: Watcher) -> None:
        with self._changed:
            self._watchers.add(watcher)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="container-engine", daemon=True)
                self._thread.start()

    def drop(self, watcher: Watcher) -> None:
        with self._changed:
            self._watchers.discard(watcher)
            self._changed.notify_all()

    @property
    def trouble(self) -> str:
        """A sentence about an engine that does not answer; '' while it does."""
        since = self.away_since
        if since is None:
            return ""
        return f"the container engine at {address()} has not answered for {time.monotonic() - since:.0f} s"

    # -- inside ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._watchers:
                    self._thread, self.away_since = None, None
                    return
                watchers = list(self._watchers)
            self._look()
            for watcher in watchers:
                if self.away_since is None:
                    watcher.note_answers()
                else:
                    watcher.note_away()
            with self._changed:
                self._changed.wait_for(lambda: not self._watchers, _EVERY_S)

    def _look(self) -> None:
        asked_at = time.monotonic()
        try:
            self._engine.ping(timeout_s=_ANSWER_S)
        except EngineAwayError as error:
            self.away_since = self.away_since or asked_at
            if asked_at - self._said_at > _SAY_AGAIN_S:
                self._said_at = asked_at
                log.warning("container.engine_away: its containers are looked after when it is back. %s", error)
        else:
            if self.away_since is not None:
                log.warning("container.engine_back after_s=%.0f", time.monotonic() - self.away_since)
            self.away_since, self._said_at = None, 0.0
