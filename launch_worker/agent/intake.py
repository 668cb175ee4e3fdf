"""Decides whether a worker takes runs now, and says why not."""

from __future__ import annotations

import logging
from collections.abc import Callable

from launch_worker.agent.quarantine import Quarantine
from launch_worker.clock import boot_time_s
from launch_worker.model.outcome import Outcome
from launch_worker.model.run import Record
from launch_worker.runners.disk import shortage_of
from launch_worker.settings import Settings

log = logging.getLogger("launch_worker.agent")


class Intake:
    """Open, except while the worker drains, is in quarantine, or its disk has too little room for any run."""

    def __init__(
        self, *, settings: Settings, quarantine_after: int, on_change: Callable[[bool], None], wake: Callable[[], None]
    ) -> None:
        """`on_change` gets whether runs are taken; `wake` has the next heartbeat tell Redis of it at once."""
        self._settings = settings
        self._quarantine = Quarantine(after=quarantine_after)
        self._on_change = on_change
        self._wake = wake
        self.is_draining = False

    @property
    def is_open(self) -> bool:
        """Whether runs are taken."""
        return not self.is_draining and not self._quarantine.is_on

    def drain(self) -> None:
        """Take no runs until the worker's end, and have Redis know it at once."""
        self.is_draining = True
        self._wake()

    def note(self, record: Record, outcome: Outcome) -> None:
        """Count an attempt's end; starts a quarantine when the machine keeps jobs from starting."""
        before = self.unable
        if self._quarantine.note(outcome, whose=record.array or record.id, now=boot_time_s(), spec=record.spec):
            log.error("worker.quarantined: %s", self._quarantine.describe(now=boot_time_s()))
            self._on_change(False)
            self._wake()
        elif self.unable != before:
            self._wake()

    @property
    def unable(self) -> tuple[str, ...]:
        """The fields of specs, as `image`, whose runs are left to other workers for now, while there are others."""
        return self._quarantine.unable(now=boot_time_s())

    def look(self) -> None:
        """End a quarantine whose time is over, and look at the disk; called at each heartbeat."""
        if self._quarantine.is_over(now=boot_time_s()):
            self.resume()
        shortage = shortage_of(self._settings)
        if bool(shortage) != bool(self._quarantine.shortage):
            log.warning("worker.disk: %s", shortage or "there is room again; runs are taken")
            self._quarantine.shortage = shortage
            self._on_change(self.is_open)
        self._quarantine.shortage = shortage

    def resume(self) -> None:
        """End a quarantine."""
        if self._quarantine.until is not None:
            log.warning("worker.resumed")
            self._quarantine.lift()
            self._on_change(self.is_open)
            self._wake()

    def problem(self) -> str:
        """What is wrong with the machine, as a predicate of "the worker"; '' when nothing keeps runs from starting."""
        return self._quarantine.describe(now=boot_time_s()) or ""

    def why_closed(self) -> str:
        """One sentence of why no runs are taken; '' when they are."""
        if self.is_draining:
            return "the worker drains: it takes no more runs, and leaves when its jobs have ended"
        problem = self.problem() if self._quarantine.is_on else ""
        return f"the worker {problem}" if problem else ""
