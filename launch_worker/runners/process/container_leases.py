"""Ends, for the guard, the containers whose leases run out. Standard library only."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from typing import Any

from launch_worker.runners.process.exits import Exit, ExitFile
from launch_worker.runners.process.failsafe import Failsafe
from launch_worker.runners.process.poller import Poller
from launch_worker.runners.process.worker_link import WorkerLink

#: Starts the program that ends a container, from the folder of this package.
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from launch_worker.runners.end_container import main; main()"
)


class _Container:
    """A container that must not outlive its lease."""

    def __init__(self, container: str, lease: list[float] | None, more: dict[str, Any]) -> None:
        self.container = container
        #: Boot times of [SIGTERM, SIGKILL]; None for a container that may outlive its lease.
        self.lease = lease
        #: Facts for the program that ends it.
        self.more = more


class ContainerLeases:
    """The watched containers, by the keys of their jobs. `root` is the folder in which this package lies."""

    def __init__(
        self, root: str, worker: WorkerLink, poller: Poller, failsafe: Failsafe, *, exits: ExitFile | None
    ) -> None:
        self._root = root
        self._worker = worker
        self._poller = poller
        self._failsafe = failsafe
        self._exits = exits
        self._containers: dict[str, _Container] = {}

    def __len__(self) -> int:
        return len(self._containers)

    def watch(self, key: str, container: str, lease: list[float] | None, more: dict[str, Any] | None) -> None:
        self._containers[key] = _Container(container, lease, more or {})
        if lease:
            self._poller.be_due(lease[0])

    def unwatch(self, key: str) -> None:
        self._containers.pop(key, None)

    def renew(self, key: str, lease: list[float] | None) -> None:
        if key in self._containers:
            self._containers[key].lease = lease

    def drop_unleased(self) -> None:
        """Leave alone, once the worker is gone, the containers that may outlive their leases."""
        self._containers = {key: each for key, each in self._containers.items() if each.lease}

    def look_around(self, now: float) -> None:
        """End the containers whose leases have run out."""
        for key, watched in list(self._containers.items()):
            self._failsafe.call(f"container of {key}", self._enforce, key, watched, now)
            if watched.lease and key in self._containers:
                self._poller.be_due(watched.lease[0])

    def _enforce(self, key: str, watched: _Container, now: float) -> None:
        if not watched.lease or now < watched.lease[0]:
            return
        del self._containers[key]
        attempt = watched.more.get("attempt")
        if attempt and self._exits is not None:
            # Whoever finds the container ended must know that it did not end by itself.
            self._exits.keep(attempt, Exit(-signal.SIGKILL, "lease", now))
        self._worker.tell("expired", key)
        self._end(watched, kill_at=watched.lease[1])

    def _end(self, watched: _Container, *, kill_at: float) -> None:
        # A process of its own: it needs the docker SDK, and an engine that hangs must not hold the guard up.
        with contextlib.suppress(OSError):
            ender = subprocess.Popen(
                [sys.executable, "-I", "-c", _PROGRAM, self._root, watched.container, str(kill_at)],
                stdin=subprocess.PIPE,
            )
            ender.returncode = 0  # reaped by the guard's loop, not by Popen
            assert ender.stdin is not None
            # Not on its command line, which others see. It fits into the pipe.
            with ender.stdin:
                ender.stdin.write(json.dumps(watched.more | {"alone": self._worker.is_gone}).encode())
