"""Carries out what a worker is ordered through Redis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from launch_worker.agent.attempts import Attempts
from launch_worker.agent.intake import Intake
from launch_worker.attempt.attempt import Attempt

#: Orders about one run, which everybody may give who may stop runs.
OF_RUNS = ("cancel", "usage")


class Orders:
    """The orders `drain`, `upgrade`, `resume`, `cancel` and `usage`."""

    def __init__(
        self,
        *,
        attempts: Attempts,
        intake: Intake,
        tell_usage: Callable[[Attempt], None],
        on_drain: Callable[[], None],
        on_upgrade: Callable[[], None],
    ) -> None:
        """`tell_usage` has what a running attempt has used by now told to those who have asked."""
        self._attempts = attempts
        self._intake = intake
        self._tell_usage = tell_usage
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
        elif order["order"] in OF_RUNS:
            for attempt in self._attempts.attempts:
                if (attempt.record.id, str(attempt.record.token)) != (order["id"], order["token"]):
                    continue
                if order["order"] == "usage":
                    self._tell_usage(attempt)
                    continue
                grace_s = max(0, int(order["grace_us"])) / 1e6 if order["grace_us"] else None
                self._attempts.cancel(attempt, str(order["reason"]), grace_s, preempt=bool(order.get("preempt")))
