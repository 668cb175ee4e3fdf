"""Turns figures into what pictures and their tables show: series over time, sparklines, attempts as bars."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from launch_worker import humane
from launch_worker.model.history import Phase, Transition
from launch_worker.model.states import RunState
from launch_worker.model.usage import Measured

Unit = Literal["", "bytes", "seconds"]
#: What a metric is called beside others of its kind: `train/loss` and `val_loss` are drawn in one picture, `loss`.
_SPLIT = re.compile(r"^(?:train|training|val|valid|validation|eval|test)[/._-](?=.)")


class Column(NamedTuple):
    """One series: a column of the table, and a line in the picture of the name `plot`."""

    name: str
    values: Sequence[float | None]
    plot: str
    unit: Unit = ""
    #: Value that was asked for, which the picture has as a line; None for none.
    asked: float | None = None


class Series(NamedTuple):
    """Series over the same steps or times: a row of the table for each of `at`."""

    #: Name of what goes from left to right, and its unit.
    along: str
    unit: Unit
    at: Sequence[float]
    columns: Sequence[Column]
    #: Whether a line goes on over a row in which its value is not known.
    spans_gaps: bool = True
    #: Whether a value holds until the next row.
    is_stepped: bool = False

    @property
    def plots(self) -> list[str]:
        """The names of the pictures, in the order of their first columns."""
        return list(dict.fromkeys(column.plot for column in self.columns))


def series_of_metrics(rows: Sequence[Mapping[str, Any]]) -> Series:
    """What a run's job told, by step. Of a step that was told more than once the last value of each metric counts."""
    by_step: dict[float, dict[str, float]] = {}
    for place, row in enumerate(rows):
        told = {name: value for name, value in row.items() if not name.startswith("_") and _is_number(value)}
        step = row.get("_step", place)
        by_step.setdefault(step if _is_number(step) else place, {}).update(told)
    steps = sorted(by_step)
    names = dict.fromkeys(name for row in by_step.values() for name in row)
    columns = [Column(name, [by_step[step].get(name) for step in steps], _SPLIT.sub("", name)) for name in names]
    return Series("step", "", steps, sorted(columns, key=lambda column: (column.plot, column.name)))


def series_of_samples(measured: Measured) -> Series:
    """What was measured of an attempt, by time since its start."""
    samples, usage = measured.samples, measured.usage
    if samples is None:
        return Series("time", "seconds", (), ())
    found = (
        Column("cores", samples.cpu, "CPU, cores", asked=usage.asked_cpus),
        Column("memory", samples.memory, "Memory", "bytes", usage.asked_memory),
        Column("busy GPUs", samples.gpu, "GPUs, busy", asked=usage.asked_gpus),
        Column("GPU memory", samples.gpu_memory, "GPU memory", "bytes"),
    )
    length = max(len(column.values) for column in found)
    columns = [
        column._replace(values=[*column.values, *[None] * (length - len(column.values))])
        for column in found
        if any(value is not None for value in column.values)
    ]
    return Series("time", "seconds", [place * samples.every_s for place in range(length)], columns, spans_gaps=False)


def in_unit(value: float | None, unit: Unit = "") -> str:
    """A value as a table has it; '' for one that is not known."""
    if value is None:
        return ""
    if unit == "bytes":
        return humane.size(value)
    if unit == "seconds":
        return humane.duration(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


# -- small pictures that need no script --------------------------------------------------------------------------------


class Spark(NamedTuple):
    """A sparkline: the points of its lines in a box, and what a reader of the text gets."""

    lines: list[str]
    label: str


def spark(
    values: Sequence[float | None], *, width: int = 100, height: int = 20, show: Callable[[float], str] = humane.figure
) -> Spark:
    """The values from left to right, the least at the bottom and the most at the top; a gap where one is not known."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return Spark([], "no values")
    low, high = min(known), max(known)
    lines: list[list[str]] = [[]]
    for place, value in enumerate(values):
        if value is None or not math.isfinite(value):
            lines.append([])
            continue
        x = width * place / max(1, len(values) - 1)
        # One unit is left free above and below, for the width of the line.
        y = height / 2 if high == low else 1 + (height - 2) * (high - value) / (high - low)
        lines[-1].append(f"{x:.4g},{y:.4g}")
    label = f"from {show(known[0])} to {show(known[-1])}, least {show(low)}, most {show(high)}"
    return Spark([" ".join(line) for line in lines if line], label)


class Part(NamedTuple):
    """A part of a bar, in percent of its length. `kind` is the class that has its colour."""

    kind: str
    x: float
    width: float


class Bar(NamedTuple):
    """A bar, and the same in words."""

    parts: list[Part]
    label: str


def _parts(found: Sequence[tuple[str, float]], whole: float) -> Iterator[Part]:
    before = 0.0
    for name, amount in found:
        yield Part(name.lower(), round(100 * before / whole, 3), round(100 * amount / whole, 3))
        before += amount


class Stretch(NamedTuple):
    """A stretch of an attempt: waiting, code, image, start, run or stop."""

    kind: str
    seconds: float


class AttemptBar(NamedTuple):
    """One attempt: its stretches, how it ended ('' while it goes on), and its bar, to the scale of the longest one."""

    attempt: int
    stretches: list[Stretch]
    end: str
    worker: str
    bar: Bar

    @property
    def seconds(self) -> float:
        """The time from the attempt's begin to its end, without the waiting."""
        return sum(stretch.seconds for stretch in self.stretches if stretch.kind != "waiting")


#: Stretch that each phase of an attempt's start is shown as.
_PHASES = {"wait": "waiting", "fetch": "code", "build": "environment", "pull": "image", "start": "start"}


def timeline(
    steps: Sequence[Transition], phases: Sequence[Phase], *, now_us: int, asked_us: int | None = None
) -> list[AttemptBar]:
    """The attempts of a run by its history. `phases` and `asked_us`, when it was asked to stop, are of the latest."""
    # Of each attempt the wait before it, and the arrows of its begin and of its end, None while it goes on.
    attempts: list[tuple[int | None, Transition, Transition | None]] = []
    waiting_since: int | None = None
    for step in steps:
        if step.state is RunState.PENDING:
            waiting_since = step.at
        elif attempts and attempts[-1][1].attempt == step.attempt:
            # One that had crashed may prove alive.
            attempts[-1] = (*attempts[-1][:2], None if step.state is RunState.RUNNING else step)
        elif step.state is RunState.RUNNING:
            attempts.append((waiting_since, step, None))
            waiting_since = None
    found: list[tuple[int, list[Stretch], str, str]] = []
    for waited_since, begin, end in attempts:
        waited = [] if waited_since is None else [Stretch("waiting", (begin.at - waited_since) / 1e6)]
        is_last = begin is attempts[-1][1]
        inside = _inside(
            begin.at, now_us if end is None else end.at, phases if is_last else (), asked_us if is_last else None
        )
        found.append((begin.attempt, waited + inside, "" if end is None else end.state.value, begin.worker))
    if steps and steps[-1].state is RunState.PENDING:
        found.append((steps[-1].attempt + 1, [Stretch("waiting", (now_us - steps[-1].at) / 1e6)], "", ""))
    longest = max((sum(stretch.seconds for stretch in stretches) for _, stretches, _, _ in found), default=0.0) or 1.0
    return [
        AttemptBar(attempt, stretches, end, worker, _bar(stretches, end, longest))
        for attempt, stretches, end, worker in found
    ]


def _inside(begin: int, end: int, phases: Sequence[Phase], asked_us: int | None) -> list[Stretch]:
    """The stretches of an attempt that began and ended then; server microseconds."""
    marks = [(min(max(phase.at, begin), end), _PHASES[phase.name]) for phase in phases if phase.name in _PHASES]
    last = next((phase for phase in reversed(phases) if phase.name in _PHASES), None)
    if last is None:
        marks.append((begin, "run"))
    elif last.seconds is not None:
        marks.append((min(max(begin, last.at + int(last.seconds * 1e6)), end), "run"))
    if asked_us is not None and begin <= asked_us < end:
        marks.append((asked_us, "stop"))
    marks.sort(key=lambda mark: mark[0])
    ends = [at for at, _ in marks[1:]] + [end]
    found = [Stretch(kind, (until - at) / 1e6) for (at, kind), until in zip(marks, ends, strict=True) if until > at]
    return found or [Stretch("run", (end - begin) / 1e6)]


def _bar(stretches: Sequence[Stretch], end: str, longest: float) -> Bar:
    # What a job did has the colour of how it ended.
    colours = {"run": end.lower() or "running"}
    parts = list(_parts([(stretch.kind, stretch.seconds) for stretch in stretches], longest))
    words = [f"{stretch.kind} {humane.duration(stretch.seconds)}" for stretch in stretches]
    return Bar([part._replace(kind=colours.get(part.kind, part.kind)) for part in parts], ", ".join(words))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
