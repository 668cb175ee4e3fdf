"""Speaks to all guards that hold this worker's jobs."""

from __future__ import annotations

from collections.abc import Mapping

from launch_worker.runners.job import Lease
from launch_worker.runners.process.runner import ProcessRunner


class Guards:
    """The worker's own guard, and the guards that it took over from previous workers. Thread-safe."""

    def __init__(self) -> None:
        self._runners: list[ProcessRunner] = []

    def add(self, runner: ProcessRunner) -> None:
        """Include a guard in what follows."""
        self._runners.append(runner)

    def remove(self, runner: ProcessRunner) -> None:
        """Leave a guard out from now on."""
        self._runners.remove(runner)

    def renew(self, leases: Mapping[str, Lease]) -> None:
        """Tell every guard until when it may keep its jobs."""
        for runner in list(self._runners):
            runner.renew(leases)

    def detach(self) -> None:
        """Leave every guard to the next worker."""
        for runner in list(self._runners):
            runner.detach()
