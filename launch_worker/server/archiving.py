"""Keeps the archive in a thread of the server, as `launch-worker archive run` does in a process of its own."""

from __future__ import annotations

import logging
import threading

from launch_worker.archive.follow import Archive
from launch_worker.database import open_database
from launch_worker.errors import LaunchError
from launch_worker.settings import Settings
from launch_worker.store.store import Store

log = logging.getLogger("launch_worker.server")

#: Seconds until the next try after a failure that a person must mend.
_PAUSE_S = 30.0


class ArchiveInside:
    """The thread. Another process may write the same archive: one of them leads, and the others wait."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="launch-archive", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end, and wait for it: the next process may write at once then."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._follow()
            except LaunchError as error:
                log.error("archive.failed again_in_s=%.0f: %s", _PAUSE_S, error)
            except Exception:
                # Runs go on without the archive, and so does the server.
                log.exception("archive.failed again_in_s=%.0f", _PAUSE_S)
            self._stopping.wait(_PAUSE_S)

    def _follow(self) -> None:
        # The archive waits in Redis for changes: the connection is its own.
        store = Store(self._settings.redis_url, settle_s=self._settings.settle_s)
        database = open_database(self._settings, create=True)
        try:
            Archive(
                store,
                database,
                stopping=self._stopping,
                log_url=self._settings.log_url,
                retention_s=self._settings.retention_s,
            ).run()
        finally:
            database.close()
            store.close()
