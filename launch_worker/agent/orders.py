"""Carries out what a worker is ordered through Redis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from launch_worker.agent.attempts import Attempts
from launch_worker.agent.intake import Intake


class Orders:
    """The orders `drain`, `upgrade`, `resume` and `cancel`."""

    def __init__(
        self, *, attempts: Attempts, intake: Intake, on_drain: Callable[[], None], on_upgrade: Callable[[], None]
    ) -> None:
        self._attempts = attempts
        self._intake = intake
        self._on_drain = on_drain
        self._on_upgrade = on_upgrade

    def obey(self, order: dict[str, Any]) -> None:
        """Carry out one published order. A lost cancel does no harm: the passes and the heartbeat repeat it."""
        if order["order"] == "drain":
            self._on_drain()
        elif order["order"] == "upgrade":
            self._on_upgrade()
        elif order["order"] == "resume":
            self._intake.resume()
        elif order["order"] == "cancel":
            for attempt in self._attempts.attempts:
                if (attempt.record.id, str(attempt.record.token)) == (order["id"], order["token"]):
                    grace_s = max(0, int(order["grace_us"])) / 1e6 if order["grace_us"] else None
                    self._attempts.cancel(attempt, str(order["reason"]), grace_s, preempt=bool(order.get("preempt")))
