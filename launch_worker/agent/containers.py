"""Gives a worker its container engine, when it first needs one."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from launch_worker.attempt.folder import AttemptFolder, containers_mark
from launch_worker.attempt.kept_folders import outputs_of
from launch_worker.errors import BrokerUnavailableError, InputError, StartError
from launch_worker.model.kept_outputs import read_outputs
from launch_worker.model.spec import parse_spec
from launch_worker.outputs.outgoing import leave_outputs, outgoing_folder
from launch_worker.runners.kept_folder import KeptFolder
from launch_worker.runners.process.runner import ProcessRunner
from launch_worker.settings import Settings
from launch_worker.store.store import Store
from launch_worker.untrusted.removal import remove_tree

if TYPE_CHECKING:
    from launch_worker.runners.container.config import Labels
    from launch_worker.runners.container.runner import ContainerRunner

log = logging.getLogger("launch_worker.container")

#: Name of the folder, in that of a worker, for what containers of other workers have left, until they are removed.
_OVER = "over"


class Containers:
    """The container runner, and what it needs to find its containers. Thread-safe."""

    def __init__(
        self,
        *,
        store: Store,
        settings: Settings,
        processes: Callable[[], ProcessRunner],
        send_outputs: Callable[[str], None],
    ) -> None:
        """`processes` gives the worker's own guard, which ends the containers of a worker that died.

        `send_outputs` has what an attempt has left sent, by the name of the attempt's folder.
        """
        self._store = store
        self._settings = settings
        self._processes = processes
        self._send_outputs = send_outputs
        self._system = ""
        self._making = threading.Lock()
        self._leaving = threading.Lock()

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
            left_by=self._left_by,
        )

    @contextlib.contextmanager
    def _left_by(self, labels: Labels) -> Iterator[Sequence[KeptFolder]]:
        """The outputs of a container whose attempt is over, if nobody has kept them: they wait to be sent afterwards.

        Its worker died, or its folder is on another machine. Raises StartError while Redis does not answer, or for a
        disk that takes nothing.
        """
        # One after the other: who removes a container must not take it from who copies it.
        with self._leaving, self._copied(labels) as keeps:
            yield keeps

    @contextlib.contextmanager
    def _copied(self, labels: Labels) -> Iterator[Sequence[KeptFolder]]:
        settings, name = self._settings, labels.attempt_name
        try:
            record = self._store.peek(labels.run) if settings.output_url else None
        except BrokerUnavailableError as error:
            raise StartError(str(error), worker_fault=True) from None
        is_kept = record is None or labels.attempt in read_outputs(record.outputs)
        if record is None or is_kept or (outgoing_folder(settings.work_dir) / name).exists():
            yield ()
            return
        folder = AttemptFolder(f"{self._processes().folder}/{_OVER}/{name}")
        try:
            spec = parse_spec(record.spec)
        except InputError:
            yield ()  # the record is damaged
            return
        try:
            folder.make(for_process=False)
            yield (outputs_of(folder, spec, settings),)
            if leave_outputs(settings.work_dir, folder.root):
                self._send_outputs(name)
        except OSError as error:
            raise StartError(f"what attempt {labels.attempt} left cannot be kept: {error}", worker_fault=True) from None
        finally:
            remove_tree(folder.root)

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
