"""A run of a sweep as a search sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Trial:
    """A run of a sweep, as a search sees it."""

    index: int
    run_id: str
    #: What was drawn for each parameter; empty in a grid.
    drawn: Mapping[str, float] = field(default_factory=dict)
    #: How many results were known when it was drawn.
    seen: int = 0
    #: It has not ended, or was started anew.
    live: bool = True
    #: The run's final state, '' for none yet.
    state: str = ""
    #: The metric as it was in the end; None for none.
    value: float | None = None
    #: The metric as it was told, by step; read for those that are judged only.
    curve: tuple[tuple[int, float], ...] = ()
    #: Why it was stopped before its end, because it was worse than others.
    stopped: str = ""

    @property
    def counts(self) -> bool:
        """Whether its value says how good its parameters are."""
        return not self.live and self.value is not None and (self.state == "Finished" or bool(self.stopped))
