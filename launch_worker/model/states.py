"""Defines the six states of a run, as W&B writes them, and the arrows between them."""

from __future__ import annotations

from enum import StrEnum

from launch_worker.errors import InputError


class RunState(StrEnum):
    """A run's state. Written exactly so, equal to its name in any letter case (W&B writes small letters).

    As a key, and in a set, it stands for the name as it is written: `"finished" in {state}` is False, but
    `state in ("finished", "failed")` compares.
    """

    PENDING = "Pending"
    RUNNING = "Running"
    FINISHED = "Finished"
    FAILED = "Failed"
    KILLED = "Killed"
    CRASHED = "Crashed"

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        # There is one object of each state: two objects are two states.
        if isinstance(other, RunState) or not isinstance(other, str):
            return False
        return self.value.lower() == other.lower()

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__

    @property
    def is_final(self) -> bool:
        return self in FINAL

    @classmethod
    def parse(cls, text: str) -> RunState:
        try:
            return cls(text.strip().capitalize())
        except ValueError:
            known = ", ".join(state.value for state in cls)
            raise InputError(f"there is no run state {text!r}; use one of: {known}") from None


FINAL = frozenset({RunState.FINISHED, RunState.FAILED, RunState.KILLED, RunState.CRASHED})

#: Arrows that a store script may make. Crashed to Running, Finished, Failed or Killed is the same attempt proving
#: alive after a cut; any final state to Pending is a new attempt (retry policy, or `launch-worker retry`). Pending to
#: Failed is a damaged record, with which nobody can execute the run.
ARROWS: dict[RunState, frozenset[RunState]] = {
    RunState.PENDING: frozenset({RunState.RUNNING, RunState.KILLED, RunState.FAILED}),
    RunState.RUNNING: FINAL,
    RunState.CRASHED: frozenset(
        {RunState.PENDING, RunState.RUNNING, RunState.FINISHED, RunState.FAILED, RunState.KILLED}
    ),
    RunState.FINISHED: frozenset({RunState.PENDING}),
    RunState.FAILED: frozenset({RunState.PENDING}),
    RunState.KILLED: frozenset({RunState.PENDING}),
}
