"""Defines what is told of a run's way: the arrows of its history, and the phases of an attempt's start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from launch_worker.model.lenient import int_of, json_of, state_of
from launch_worker.model.states import RunState
from launch_worker.model.units import isoformat, micros_of


@dataclass(frozen=True)
class Transition:
    """One arrow of a run's history. `at` is server time in microseconds."""

    state: RunState
    at: int
    attempt: int
    worker: str
    reason: str
    #: Of an attempt's end, where its worker reported it; as in the record.
    exit_code: int | None = None
    signal: str = ""
    phase: str = ""
    #: Person who asked for it, as that person's client said; '' for an arrow that the system made by itself.
    actor: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "state": self.state.value,
            "at": isoformat(self.at),
            "attempt": self.attempt,
            "worker": self.worker or None,
            "reason": self.reason or None,
        }

    @classmethod
    def from_json(cls, shown: Mapping[str, Any]) -> Transition:
        """Read what `as_json` wrote."""
        worker, reason, actor = (str(shown.get(name) or "") for name in ("worker", "reason", "actor"))
        state, at = state_of(str(shown.get("state"))), micros_of(shown.get("at")) or 0
        return cls(state, at, int_of(shown.get("attempt")), worker, reason, actor=actor)


@dataclass(frozen=True)
class Phase:
    """A part of an attempt's start, or the instant at which another worker took it over."""

    name: str
    #: Server time in microseconds.
    at: int
    #: Duration; None while the phase lasts.
    seconds: float | None = None

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "at": isoformat(self.at), "seconds": self.seconds}

    @classmethod
    def from_json(cls, shown: Mapping[str, Any]) -> Phase:
        """Read what `as_json` wrote."""
        seconds = shown.get("seconds")
        is_known = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        return cls(str(shown.get("name")), micros_of(shown.get("at")) or 0, seconds if is_known else None)


def phases_of(text: str) -> tuple[Phase, ...]:
    try:
        return tuple(
            Phase(str(entry["name"]), int(entry["at"]), None if entry.get("us") is None else int(entry["us"]) / 1e6)
            for entry in (json_of(text) or [])
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return ()
