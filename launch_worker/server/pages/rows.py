"""Makes the rows of lists of runs: what a run waits for, does or died of, and groups as one row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from launch_worker import humane
from launch_worker.api.folding import loudest
from launch_worker.api.shown import run_as_json
from launch_worker.model.group import NEVER, GroupRecord
from launch_worker.model.outcome import exception_of
from launch_worker.model.run import Record
from launch_worker.model.sentences import words_for_halt
from launch_worker.model.states import RunState
from launch_worker.server.served import Served
from launch_worker.untrusted.text import clean, read_map

#: Values of a summary that a row shows, and characters of a text one.
_MOST_VALUES, _MOST_TEXT = 3, 40
#: States of a group's runs as a sentence says them, in their order.
_SAID = {
    RunState.FINISHED: "finished",
    RunState.FAILED: "failed",
    RunState.CRASHED: "crashed",
    RunState.KILLED: "killed",
    RunState.RUNNING: "running",
    RunState.PENDING: "waiting",
}


@dataclass(frozen=True)
class Row:
    """A run, or a group, as a list shows it."""

    record: Record
    state: RunState
    #: Sentence that a person needs first.
    why: str
    #: What explains it further, in small.
    more: str = ""
    #: Seconds that it waited, and that it ran; None for not at all.
    waited_s: float | None = None
    took_s: float | None = None
    #: Per cent of the time limit that are over, and that limit in seconds; None without one.
    used: float | None = None
    limit_s: float | None = None
    #: Id of the group, for the row of one; its runs by state, and their number.
    group: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    size: int = 0
    #: Place of a run in its array.
    index: int | None = None

    @property
    def id(self) -> str:
        return self.group or self.record.id

    @property
    def by(self) -> str:
        return clean(self.record.user or self.record.author.partition("@")[0])

    @property
    def mark(self) -> str:
        """What names the row in an address: the run, and for a group that too."""
        return f"{self.record.id}:{self.group}" if self.group else self.record.id


def run_row(served: Served, record: Record, now_us: int) -> Row:
    """The row of one run."""
    why, more = map(clean, why_of(served, record))
    started, ended = record.started_at, record.ended_at
    waited = took = None
    if record.state is RunState.PENDING:
        is_due = record.due_at is None or record.due_at <= now_us
        waited = now_us - record.created_at if is_due else None
    elif started is None:
        waited = (ended or now_us) - record.created_at
    else:
        # A later attempt began after an earlier one, and not after a wait alone.
        waited = started - record.created_at if record.attempt <= 1 else None
        took = (ended or now_us) - started
    spec = read_map(record.spec)
    limit = spec.get("timeout_s") if record.state is RunState.RUNNING else None
    limit_s = float(limit) if isinstance(limit, (int, float)) and limit > 0 else None
    index = spec.get("array_index")
    return Row(
        record,
        record.state,
        why,
        more,
        waited_s=None if waited is None else waited / 1e6,
        took_s=None if took is None else took / 1e6,
        used=None if limit_s is None or took is None else min(100.0, took / 1e4 / limit_s),
        limit_s=limit_s,
        index=index if isinstance(index, int) else None,
    )


def group_row(record: Record, group_id: str, counts: Mapping[str, int], now_us: int, of: GroupRecord | None) -> Row:
    """The row of a group, described by one of its runs."""
    there = {state: counts.get(state.value, 0) for state in RunState}
    state = loudest(counts) or record.state
    said = [f"{humane.count(there[one])} {word}" for one, word in _SAID.items() if there[one]]
    never = counts.get(NEVER, 0)
    said += [f"{humane.count(never)} never ran"] if never else []
    limit = f" · limit {record.array_limit} of the array" if record.array_limit and there[RunState.PENDING] else ""
    began = (of.created_at if of is not None else 0) or record.created_at
    ended = of.ended_at if of is not None else None
    is_over = not there[RunState.RUNNING] and not there[RunState.PENDING]
    took = (ended or record.ended_at or began) - began if is_over else now_us - began
    return Row(
        record,
        state,
        ", ".join(said) + limit + (f" · {words_for_halt(of)}" if of is not None and of.halted else ""),
        took_s=max(0, took) / 1e6,
        group=group_id,
        counts={one.value: number for one, number in there.items()},
        size=sum(there.values()) + never,
    )


def why_of(served: Served, record: Record) -> tuple[str, str]:
    """The sentence that a person needs of a run, and what explains it."""
    reason = run_as_json(served, record)["reason"] or ""
    if record.state is RunState.PENDING:
        if record.due_at is not None and record.due_at > 0 and reason.startswith("scheduled for "):
            return "scheduled", ""
        return reason, ""
    attempt = f"try {record.attempt}" if record.attempt > 1 else ""
    if record.state is RunState.RUNNING:
        if reason:
            return reason, attempt
        if record.cancel_at is not None:
            return "asked to stop", attempt
        started = next((phase.name for phase in record.phases if phase.seconds is None), "")
        where = f"{humane.plural(len(record.gpus), 'GPU')} on {record.host}" if record.gpus else f"on {record.host}"
        said = [part for part in (started and f"{started} goes on", summary_of(record), where) if part]
        return " · ".join(said), attempt
    if record.state is RunState.FINISHED:
        return summary_of(record), attempt
    if exception := exception_of(record.reason):
        rest = reason.removeprefix(exception).strip()
        return exception, " · ".join(part for part in (rest, attempt) if part)
    if record.message and record.message != reason:
        return record.message, " · ".join(part for part in (reason, attempt) if part)
    return reason, attempt


def summary_of(record: Record) -> str:
    """The first values that the job reported: `loss 0.223 · accuracy 0.933`."""
    shown: list[str] = []
    for name, value in record.summary_values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float, str)) or len(shown) == _MOST_VALUES:
            continue
        text = value[:_MOST_TEXT] if isinstance(value, str) else humane.figure(value)
        shown.append(f"{name[:_MOST_TEXT]} {text}")
    return " · ".join(shown)


def make_rows(
    served: Served,
    found: Sequence[tuple[Record, str]],
    now_us: int,
    counted: Callable[[str], Mapping[str, int]],
) -> list[Row]:
    """The rows of runs and, with its id, of groups. `counted` counts the runs of a group that Redis has forgotten."""
    groups = served.known_groups([group for _, group in found if group])
    rows = []
    for record, group in found:
        if not group:
            rows.append(run_row(served, record, now_us))
            continue
        of = groups.get(group)
        rows.append(group_row(record, group, of.counts if of is not None else counted(group), now_us, of))
    return rows


def parse_marks(text: str, most: int) -> list[tuple[str, str]]:
    """The runs and groups of `Row.mark`, with commas between them."""
    return [(run_id, group) for run_id, _, group in (mark.partition(":") for mark in text.split(",")[:most])]
