"""Finds out which layers of confinement this machine has: each is tried once, and only when a queue asks for it."""

from __future__ import annotations

from launch_worker.queues.confinement import Demands


class Layers:
    """What this machine can confine processes by. Thread-safe: a layer that is tried twice gives one answer."""

    def why_not(self, demands: Demands) -> str:
        """Why this machine cannot confine a queue's processes so, as a clause; '' where it can."""
        whys = []
        if demands.sandbox:
            whys.append(self._why_no_sandbox(demands.sandbox))
        if demands.run_as:
            whys.append(self._why_no_accounts(demands))
        if demands.limits:
            whys.append(self._why_no_limits(demands))
        return " and ".join(filter(None, whys))

    def describe(self) -> list[str]:
        """The layers that were found, for people; those that nobody asked for are not among them."""
        return []

    def _why_no_sandbox(self, sandbox: str) -> str:
        return "this release has no sandbox"

    def _why_no_accounts(self, demands: Demands) -> str:
        return "this release starts no process as another user"

    def _why_no_limits(self, demands: Demands) -> str:
        return "this release has no limits for processes"
