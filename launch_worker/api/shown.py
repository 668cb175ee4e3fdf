"""Shows a run as the object of `runs --json` and `show --json`."""

from __future__ import annotations

from typing import Any, Protocol

from launch_worker.errors import InputError
from launch_worker.model.run import Record, Transition
from launch_worker.model.saved_files import saved_files
from launch_worker.model.states import RunState


class Explains(Protocol):
    """What is asked beside a run's record; every transport has it."""

    def why_waiting(self, queue: str) -> str: ...

    def transitions(self, run_id: str) -> list[Transition]: ...


def run_as_json(transport: Explains, record: Record, *, history: bool = False) -> dict[str, Any]:
    """The object of `runs --json`; with `history` that of `show --json`."""
    shown = record.as_json()
    if record.state is RunState.PENDING and not shown["reason"]:
        shown["reason"] = transport.why_waiting(record.queue) or None
    if history:
        shown["history"] = [transition.as_json() for transition in transport.transitions(record.id)]
        shown["files"] = [file.as_json() for file in saved_files(record)]
    return shown


def attempt_of(record: Record, attempt: int | None) -> int:
    """The attempt, the latest for None. Raises InputError for one that the run has not had."""
    if attempt is not None and attempt > record.attempt:
        raise InputError(f"run {record.id} has had {record.attempt} attempts; there is no attempt {attempt} yet")
    return record.attempt if attempt is None else attempt
