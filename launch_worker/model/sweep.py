"""Defines a sweep's record and its trials as values."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from launch_worker.errors import NotFoundError
from launch_worker.untrusted.text import read_map

#: States of a sweep that is over.
ENDED = ("FINISHED", "CANCELED")
#: Words of the states for people.
STATE_WORDS = {
    "RUNNING": "Running",
    "PAUSED": "Paused",
    "STOPPED": "Stopping",
    "FINISHED": "Finished",
    "CANCELED": "Cancelled",
}
#: What a person may order for a sweep.
SweepOrder = Literal["pause", "resume", "stop", "cancel"]


@dataclass(frozen=True)
class Trial:
    """A run of a sweep, as a search sees it."""

    index: int
    run_id: str
    #: Numbers drawn for the parameters; empty in a grid.
    drawn: Mapping[str, float] = field(default_factory=dict)
    #: Number of results that were known when it was drawn.
    seen: int = 0
    #: Whether it has not ended, or was started anew.
    live: bool = True
    #: Final state of the run; '' for none yet.
    state: str = ""
    #: Final value of the metric; None for none.
    value: float | None = None
    #: Steps and values of the metric; read only for runs that are judged.
    curve: tuple[tuple[int, float], ...] = ()
    #: Reason of an early stop, because it was worse than others; '' for none.
    stopped: str = ""

    @property
    def counts(self) -> bool:
        """Whether the value says how good the parameters are."""
        return not self.live and self.value is not None and (self.state == "Finished" or bool(self.stopped))


@dataclass(frozen=True)
class SweepRecord:
    """What the store knows of a sweep at one instant. Times are server microseconds."""

    id: str
    #: One of RUNNING, PAUSED, STOPPED (the last runs are ending), FINISHED, CANCELED.
    state: str
    name: str
    #: JSON of the configuration, as it was written.
    config: str
    #: JSON of the further arguments of RunSpec that its runs have.
    given: str
    #: Most live runs, runs made so far, and most runs in all (`cap`; None: no end).
    workers: int
    made: int
    cap: int | None
    #: Number of runs that have not ended.
    live: int
    seed: int
    created_at: int
    ended_at: int | None
    #: Whether its running runs are being killed.
    cancelling: bool = False
    #: Reason why it makes no more runs.
    reason: str = ""
    #: Reason why its next run cannot be made.
    stuck: str = ""
    #: Number of runs that Failed or Crashed while none has Finished since the sweep was made or resumed; and of all
    #: failed ones since then, where the sweep has `--max-fails`.
    failures: int = 0
    fails: int = 0
    #: Number of these whose reason is of the kind that most of them have; the id of the last such run, and its reason.
    alike: int = 0
    failed: str = ""
    failed_why: str = ""
    #: Name of the metric in the summary, '' for none; and a run that Finished without it, while no run has reported it.
    metric: str = ""
    unmeasured: str = ""
    #: Name of the person whom a server has proven to have made it; '' for one that was made on Redis itself.
    user: str = ""

    @property
    def project(self) -> str:
        """The project of its runs; '' for none."""
        return str(read_map(self.given).get("project") or "")

    @property
    def problem(self) -> str:
        """What is wrong with the sweep now, and what to do; '' for nothing."""
        if self.stuck:
            return self.stuck
        if (self.failures or self.fails) and (self.state == "PAUSED" or self.is_over):
            why = f"{self._failed} failed, {self._which} ({self.failed}) with: {self.failed_why}"
            return why if self.is_over else f"{why}; mend that, and then: launch-worker sweep resume {self.id}"
        if self.unmeasured:
            return (
                f"run {self.unmeasured} Finished without a number {self.metric!r} in its summary, by which the sweep "
                f"learns; print a last line of JSON such as {{{json.dumps(self.metric)}: 0.1}}"
            )
        return ""

    @property
    def _failed(self) -> str:
        if not self.failures or self.fails > self.failures:
            return "one of its runs" if self.fails == 1 else f"{self.fails} of its runs"
        return "its first run" if self.failures == 1 else f"its first {self.failures} runs all"

    @property
    def _which(self) -> str:
        """The runs that have the reason that most of them have."""
        others = max(self.failures, self.fails) - self.alike
        if not self.alike or others <= 0:
            return "the last one"
        return f"{self.alike} of them, as the last of these" if self.alike > 1 else "the last one"

    @property
    def room(self) -> int:
        """The number of runs to make now."""
        if self.state != "RUNNING":
            return 0
        left = self.workers if self.cap is None else self.cap - self.made
        return max(0, min(self.workers - self.live, left))

    @property
    def is_over(self) -> bool:
        return self.state in ENDED


def unknown_sweep(sweep_id: str) -> NotFoundError:
    shown = sweep_id if re.fullmatch(r"[\w.=@-]{1,60}", sweep_id) else repr(sweep_id[:40])
    return NotFoundError(f"there is no sweep {shown}; list the known ones with: launch-worker sweep list")
