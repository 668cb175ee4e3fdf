"""Gives a worker its container engine, when it first needs one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from launch_worker.attempt.folder import containers_mark
from launch_worker.runners.process.runner import ProcessRunner
from launch_worker.settings import Settings
from launch_worker.store.store import Store

if TYPE_CHECKING:
    from launch_worker.runners.container.runner import ContainerRunner


class Containers:
    """The container runner, and what it needs to find its containers. Thread-safe."""

    def __init__(self, *, store: Store, settings: Settings, processes: Callable[[], ProcessRunner]) -> None:
        """`processes` gives the worker's own guard, which ends the containers of a worker that died."""
        self._store = store
        self._settings = settings
        self._processes = processes
        self._system = ""
        self._making = threading.Lock()

    def runner(self) -> ContainerRunner:
        """The container runner; the first call imports the engine's SDK."""
        with self._making:
            return self._runner

    @cached_property
    def _runner(self) -> ContainerRunner:
        # Imported here: the engine's SDK takes 12 MiB, and most workers run processes only.
        from launch_worker.runners.container.runner import ContainerRunner

        containers_mark(self._settings.work_dir).touch()
        return ContainerRunner(
            self._processes(),
            log_file_bytes=self._settings.log_file_bytes,
            redis_url=self._settings.redis_url,
            registry_auth=self._settings.registry_auth,
        )

    def may_exist(self) -> bool:
        """Whether a worker of this launch system may have made containers here. Raises BrokerUnavailableError."""
        return containers_mark(self._settings.work_dir).exists() or (_engine_is_near() and self._store.has_system())

    def system(self) -> str:
        """The name of this launch system, for the labels of its containers. Raises BrokerUnavailableError."""
        if not self._system:
            self._system = self._store.system()
        return self._system


def _engine_is_near() -> bool:
    """Whether there may be a container engine here: a look that needs no SDK."""
    return bool(os.environ.get("DOCKER_HOST")) or os.path.exists("/var/run/docker.sock")
