"""Holds the connection to the Redis of one launch system, and to its archive, where there is one."""

from __future__ import annotations

import time
from copy import copy
from typing import TYPE_CHECKING, Self

from launch_worker.model.worker import why_unserved
from launch_worker.settings import Settings
from launch_worker.store.store import Store
from launch_worker.submission.submitter import Submitter

if TYPE_CHECKING:
    from launch_worker.database.database import Database

#: Seconds of the longest block on Redis in one call; a wait is a loop of them.
TURN_S = 2.0
#: Seconds for which an answer to "why do the runs of this queue wait?" is given again.
_WHY_S = 1.0


class RedisConnection(Submitter):
    """The settings, the store, which is connected to at its first call, and the archive."""

    def __init__(
        self, url: str | None = None, *, settings: Settings | None = None, archive: Database | None = None
    ) -> None:
        super().__init__(url, settings=settings)
        #: Monotonic time and answer of the last look why a queue's runs wait, by queue.
        self._why_waiting: dict[str, tuple[float, str]] = {}
        self._archive = archive

    @property
    def store(self) -> Store:
        """The store, connected to at its first call."""
        if not isinstance(self._store, Store):
            self._store = Store(self.settings.redis_url, settle_s=self.settings.settle_s)
        return self._store

    def acting(self, actor: str) -> Self:
        """The same connection for another person, in whose name it acts."""
        assert self._store is not None, "it was not used yet, and would be connected twice"
        other = copy(self)
        other.actor = actor
        return other

    def archive(self) -> Database | None:
        """The archive, opened at the first call; None where there is none. Raises ArchiveError, SettingsError.

        SQLAlchemy is imported here, and not before.
        """
        if self._archive is None and self.settings.has_archive:
            from launch_worker.database import open_database

            self._archive = open_database(self.settings)
        return self._archive

    def why_waiting(self, queue: str) -> str:
        """Why a ready run of a queue that breaks no limit has not been taken; '' where it will be in a moment.

        An answer is kept for a second: lists ask for each of their runs.
        """
        known = self._why_waiting.get(queue)
        if known is None or time.monotonic() - known[0] > _WHY_S:
            known = self._why_waiting[queue] = (time.monotonic(), self._look_why_waiting(queue))
        return known[1]

    def _look_why_waiting(self, queue: str) -> str:
        workers, free = self.store.slots_of(queue)
        if not workers:
            return why_unserved(self.store.workers(), queue).partition("; ")[0]
        if free is None or free > 0:
            return ""
        if workers == 1:
            return f"all slots of the worker of queue {queue} are taken"
        return f"all slots of the {workers} workers of queue {queue} are taken"
