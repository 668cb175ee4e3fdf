"""Says in one sentence what a run or a group does, or how it ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from launch_worker import humane
from launch_worker.model.group import NEVER, GroupRecord
from launch_worker.model.hints import meaning_of
from launch_worker.model.run import Record
from launch_worker.model.states import RunState
from launch_worker.model.units import is_number
from launch_worker.untrusted.text import read_map


def sentence_of(record: Record, why: str, *, now_us: int) -> str:
    """What a run does or how it ended. `why` is the reason that is shown of it, as `show --json` has it."""
    if record.state is RunState.PENDING:
        return _of_waiting(record, why, now_us)
    if record.state is RunState.RUNNING:
        return _of_running(record, why, now_us)
    began, ended = record.started_at, record.ended_at
    if not record.attempt:
        how = "before it started"
    elif began is None or ended is None:
        how = f"in attempt {record.attempt}"
    else:
        how = f"after {humane.duration((ended - began) / 1e6)}"
    where = f" on {record.worker}" if record.worker and record.attempt else ""
    when = "" if ended is None else f", {humane.ago((now_us - ended) / 1e6)}"
    said = [why, meaning_of(record) if record.state is RunState.FAILED else ""]
    if record.late_exit:
        said.append(f"its process ended later by {record.late_exit}")
    return _joined(f"{record.state.value} {how}{where}{when}", ", ".join(filter(None, said)))


def _of_waiting(record: Record, why: str, now_us: int) -> str:
    since = humane.span((now_us - record.created_at) / 1e6) if record.created_at else ""
    waits = f"Pending for {since}" if since and now_us > record.created_at else "Pending"
    if record.due_at is not None and not record.waits_for:
        starts = f"it starts {humane.ago((now_us - record.due_at) / 1e6)}" if record.due_at > now_us else "it is due"
        return _joined(waits, starts if why.startswith("scheduled for ") or not why else f"{why}; {starts}")
    return _joined(f"{waits} in queue {record.queue}", why or "it is about to start")


def _of_running(record: Record, why: str, now_us: int) -> str:
    ran = "" if record.started_at is None else f" for {humane.duration((now_us - record.started_at) / 1e6)}"
    limit = _number(read_map(record.spec).get("timeout_s"))
    most = f" of {humane.duration(limit)} at most" if limit else ""
    where = f" on {record.worker}" if record.worker else ""
    if record.is_held:
        return _joined(f"Running{ran}{where}, as far as anybody knows", why)
    again = f", attempt {record.attempt}" if record.attempt > 1 else ""
    if record.cancel_at is not None:
        asked = f"it was asked to stop {humane.ago((now_us - record.cancel_at) / 1e6)}"
        return _joined(f"Running{ran}{most}{where}{again}; {asked}", why.removeprefix("stopping: "))
    return _joined(f"Running{ran}{most}{where}{again}", why)


#: Words for the runs of a group by state, the most important first, for its sentence.
_SAID = {
    RunState.CRASHED.value: "crashed",
    RunState.FAILED.value: "failed",
    RunState.KILLED.value: "killed",
    RunState.RUNNING.value: "running",
    RunState.PENDING.value: "waiting",
    RunState.FINISHED.value: "finished",
}


def sentence_of_group(group: GroupRecord, *, now_us: int) -> str:
    """What the runs of a group do or how they ended."""
    counts = {word: group.counts.get(state, 0) for state, word in _SAID.items()}
    counts["never ran"] = group.counts.get(NEVER, 0)
    said = ", ".join(f"{humane.count(count)} {word}" for word, count in counts.items() if count)
    kind = {"bulk": "Bulk submission"}.get(group.kind, group.kind.capitalize())
    name = f" {group.name}" if group.name else ""
    if group.is_over and group.ended_at is not None:
        took = humane.duration((group.ended_at - group.created_at) / 1e6)
        how = f"over after {took}, {humane.ago((now_us - group.ended_at) / 1e6)}"
    elif group.is_over:
        how = "over"
    else:
        how = "more are to come" if group.is_open else "goes on"
    if group.halted:
        how += f", {words_for_halt(group)}"
    return f"{kind}{name} of {humane.plural(group.size, 'run')}, {how}: {said or 'none yet'}."


def words_for_halt(group: GroupRecord) -> str:
    """Why the rest of a group was not started; '' where it was."""
    return f"halted after {humane.plural(group.halted, 'failed run')} (--max-fails)" if group.halted else ""


def common_reason(records: Sequence[Record]) -> tuple[str, int]:
    """The most frequent reason of runs that ended badly, and how many have it; '' for none."""
    counts: dict[str, int] = {}
    for record in records:
        if record.reason:
            counts[record.reason] = counts.get(record.reason, 0) + 1
    return max(counts.items(), key=lambda one: one[1], default=("", 0))


def attempt_of_most(record: Record, spec: Mapping[str, Any]) -> str:
    """Which attempt it is, and of how many; '' where that says nothing."""
    most = 1 + int(_number(spec.get("retries")) or 0)
    if record.attempt > most:
        # Preemptions, and attempts that a person asked for, are not counted.
        return f"attempt {record.attempt}"
    return f"attempt {record.attempt} of {most}" if most > 1 and record.attempt else ""


def _joined(what: str, why: str) -> str:
    return humane.sentence(f"{what}: {why}" if why else what)


def _number(value: Any) -> float:
    return value if is_number(value) and value >= 0 else 0.0
