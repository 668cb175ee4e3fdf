"""Keeps a worker from taking runs for a while after its machine failed to start jobs, and says why."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from launch_worker.model.outcome import Outcome
from launch_worker.model.units import format_duration

WINDOW_S = 60.0
FIRST_PAUSE_S = 30.0
LONGEST_PAUSE_S = 1800.0
#: Fields of a run's spec that need more of the worker than to start a process, in words for people.
_NEEDED = {
    "image": "a container",
    "uri": "code from git",
    "upload": "an upload",
    "requirements": "an environment",
    "secrets": "secrets",
}


@dataclass
class Quarantine:
    """Counts submissions in a row whose start failed through the machine: its disk, its descriptors, its engine's GPUs.

    A program that is not there is its submitter's affair: it says nothing of the machine, neither good nor bad. `after`
    0 never pauses. Times are seconds of one clock. A run's attempts, and the runs of an array, count once.
    """

    after: int
    #: Time until which nothing is taken; None when runs are taken.
    until: float | None = None
    why: str = ""
    #: A sentence about what the machine has too little of for any run; '' for nothing.
    shortage: str = ""
    #: Fields of specs (`image`, `uri`) for which starts fail here, each with the time until which other workers are to
    #: take such runs. Runs without them go on.
    _unable: dict[str, float] = field(default_factory=dict)
    _failed: deque[tuple[float, str]] = field(default_factory=deque)
    _pauses: int = 0

    def note(self, outcome: Outcome, *, whose: str, now: float, spec: str = "") -> bool:
        """Count an attempt's end; True when the worker must pause from now on.

        `whose`: its run, or its array; `spec`: the text of its spec.
        """
        if outcome.engine_fault or (outcome.worker_fault and outcome.phase == "build"):
            # A fault of the engine, or of the fetch of code (git), keeps no other run from starting.
            by_fetch = [name for name in _NEEDED if name != "image" and f'"{name}":' in spec]
            found = ["image"] if outcome.engine_fault else by_fetch
            self._unable |= dict.fromkeys(found, now + FIRST_PAUSE_S)
            return False
        if not outcome.worker_fault:
            if outcome.phase in ("agent", "build", "start"):
                return False
            self._failed.clear()
            if self.until is None:
                self._pauses = 0
            return False
        self._failed.append((now, whose))
        while self._failed[0][0] < now - WINDOW_S:
            self._failed.popleft()
        doubted = {submission for _, submission in self._failed}
        if self.until is not None or not self.after or len(doubted) < self.after:
            return False
        pause_s = min(FIRST_PAUSE_S * 2**self._pauses, LONGEST_PAUSE_S)
        self._pauses += 1
        self._failed.clear()
        self.until = now + pause_s
        several = f"{self.after} submissions in a row could" if self.after > 1 else "a run could"
        self.why = f"{several} not be started through this machine's fault: {outcome.reason}"
        return True

    def is_over(self, *, now: float) -> bool:
        """Whether a pause has just run out; the next failures in a row make a longer pause."""
        return self.until is not None and now >= self.until

    def unable(self, *, now: float) -> tuple[str, ...]:
        """The fields of specs whose runs other workers are to take, while there are others."""
        return tuple(name for name, until in self._unable.items() if now < until) if self._unable else ()

    def lift(self) -> None:
        """End the pause."""
        self.until, self.why = None, ""

    @property
    def is_on(self) -> bool:
        """Whether nothing is taken."""
        return self.until is not None or bool(self.shortage)

    def describe(self, *, now: float) -> str | None:
        """A sentence for people; None when runs are taken."""
        if self.shortage:
            return f"takes no runs for now: {self.shortage}"
        if self.until is None:
            found = " or ".join(_NEEDED[name] for name in self.unable(now=now))
            return f"fails to start runs with {found}: other workers are to take them for now" if found else None
        return f"takes no runs for {format_duration(max(1.0, self.until - now))} more: {self.why}"
