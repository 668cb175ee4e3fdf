"""Shows a run as the object of `runs --json` and `show --json`, and its spec for people."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from launch_worker import humane
from launch_worker.model.history import Transition
from launch_worker.model.run import Record, no_such_attempt
from launch_worker.model.run_files import saved_files
from launch_worker.model.states import RunState
from launch_worker.model.units import is_number


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
        raise no_such_attempt(record.id, record.attempt, attempt)
    return record.attempt if attempt is None else attempt


def source_of(spec: Mapping[str, Any], commit: str | None) -> str:
    """Where a run's code is from; '' where the submitter said nothing of that."""
    if spec.get("upload"):
        return f"upload {str(spec['upload'])[:12]}"
    return f"{spec['uri']}{f' at {commit[:12]}' if commit else ''}" if spec.get("uri") else ""


def options_of(spec: Mapping[str, Any], *, without: Collection[str]) -> list[tuple[str, str]]:
    """The fields of a spec but some, with what they say for people: `Retry delay`, `2 s`."""
    found = []
    for name, value in spec.items():
        if name in without or value in (None, "", [], {}):
            continue
        label = name.removesuffix("_s") if name.endswith("_s") else name
        text = str(value)
        if name.endswith("_s") and is_number(value):
            text = humane.duration(float(value))
        elif name == "memory" and is_number(value):
            text = humane.size(float(value))
        elif isinstance(value, Mapping):
            text = ", ".join(f"{key}={entry}" for key, entry in value.items())
        elif isinstance(value, Sequence) and not isinstance(value, str):
            text = ", ".join(map(str, value))
        found.append((label.replace("_", " ").capitalize(), text))
    return found
