"""Says what can be done to many runs at once: to runs in which states, and what it means for them."""

from __future__ import annotations

from typing import Literal, NamedTuple

from launch_worker.errors import LaunchError
from launch_worker.model.states import RunState

#: What can be done to many runs.
ManyAct = Literal["cancel", "retry", "delete"]
#: Runs at once at most, and those for which a person need not type their number.
MOST, UNTYPED = 10_000, 20

_FINAL = tuple(state.value for state in RunState if state.is_final)


class Meaning(NamedTuple):
    """What an act means for the runs to which it is done."""

    label: str
    #: States in which a run can be acted on so.
    states: tuple[str, ...]
    #: What it means, and what becomes of the runs in other states.
    meaning: str
    others: str
    done: str
    #: What becomes of each, and whether it cannot be undone.
    becomes: str
    is_dangerous: bool = False


MEANINGS: dict[ManyAct, Meaning] = {
    "retry": Meaning(
        "Retry",
        _FINAL,
        "Each gets a new attempt and waits in its queue again.",
        "has not ended yet",
        "wait again",
        "tried again",
    ),
    "cancel": Meaning(
        "Cancel",
        (RunState.PENDING.value, RunState.RUNNING.value),
        "Those that wait are Killed at once; those that run are asked to stop, and get their grace.",
        "has ended already",
        "are cancelled",
        "cancelled",
        is_dangerous=True,
    ),
    "delete": Meaning(
        "Delete",
        (RunState.PENDING.value, *_FINAL),
        "Their output, files and histories are deleted for good.",
        "runs, and must be cancelled first",
        "are deleted",
        "deleted",
        is_dangerous=True,
    ),
}


class Done(NamedTuple):
    """What became of one of many runs."""

    run_id: str
    #: killed, requested, Pending or deleted; '' where it was refused.
    word: str
    refusal: LaunchError | None = None


class Refusals:
    """Counts the refusals of an act on many runs, by their reasons."""

    def __init__(self) -> None:
        #: The ids of the runs for which each sentence is true.
        self.by_reason: dict[str, list[str]] = {}
        #: Exit code of the worst of them.
        self.exit_code = 0

    def add(self, run_id: str, refusal: LaunchError) -> None:
        reason = str(refusal).replace(f"run {run_id}", "the run").replace(run_id, "RUN")
        self.by_reason.setdefault(reason, []).append(run_id)
        self.exit_code = max(self.exit_code, refusal.exit_code)
