"""Lays out the runs of a sweep for pictures and tables: an axis for each parameter and one for the metric."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple
from urllib.parse import urlencode

from launch_worker import humane
from launch_worker.model.states import RunState
from launch_worker.model.sweep import Trial
from launch_worker.server.charts import Column, Series
from launch_worker.sweeps.config import SweepConfig
from launch_worker.sweeps.search import best_of
from launch_worker.sweeps.space import Dimension

#: Times the least value from which on an axis of positive values has a logarithmic scale.
_WIDE = 1000


@dataclass(frozen=True)
class Axis:
    """One parameter, or the metric, of all runs. A word is the number of its place in `words`."""

    name: str
    kind: Literal["number", "log", "word"]
    words: tuple[str, ...]
    values: Sequence[float | None]

    def text(self, place: int) -> str:
        """The value of a run as the table has it; '' for none."""
        value = self.values[place]
        if value is None:
            return ""
        return self.words[int(value)] if self.kind == "word" else humane.figure(value)


class Picked(NamedTuple):
    """A part of an axis: from a value to another, or some words."""

    low: float | None = None
    high: float | None = None
    words: frozenset[str] = frozenset()

    def has(self, axis: Axis, place: int) -> bool:
        value = axis.values[place]
        if value is None:
            return False
        if axis.kind == "word":
            return axis.words[int(value)] in self.words
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


@dataclass(frozen=True)
class Trials:
    """The runs of a sweep at one instant. The place of a run is its number in the sweep."""

    trials: Sequence[Trial]
    #: State of each run; '' for one that Redis has forgotten.
    states: Sequence[str]
    axes: Sequence[Axis]
    #: The metric; None for a sweep without one.
    metric: Axis | None
    maximize: bool
    best: Trial | None

    @property
    def counts(self) -> Counter[str]:
        return Counter(state for state in self.states if state)

    @property
    def all_axes(self) -> list[Axis]:
        return [*self.axes, *([self.metric] if self.metric else [])]

    def picked(self, picks: Mapping[str, Picked]) -> list[int]:
        """The places of the runs that are in all of these parts."""
        axes = {axis.name: axis for axis in self.all_axes}
        wanted = [(axes[name], pick) for name, pick in picks.items() if name in axes]
        return [place for place in range(len(self.trials)) if all(pick.has(axis, place) for axis, pick in wanted)]

    def ordered(self, places: Sequence[int], order: str) -> list[int]:
        """The places by an axis, `number` or `state`, from the largest with a minus; by '' the best first."""
        name = order.removeprefix("-")
        axis = next((axis for axis in self.all_axes if axis.name == name), None)
        if not order:
            axis, is_falling = self.metric, self.maximize
        else:
            is_falling = order.startswith("-")
        if name == "state":
            return sorted(places, key=lambda place: (self.states[place], place), reverse=is_falling)
        if axis is None:
            return sorted(places, reverse=is_falling or not order)
        known = [(value, place) for place in places if (value := axis.values[place]) is not None]
        known.sort(key=lambda entry: (-entry[0] if is_falling else entry[0], entry[1]))
        # What has no value yet comes last, the newest first.
        return [place for _, place in known] + [place for place in reversed(places) if axis.values[place] is None]

    def best_so_far(self) -> Series:
        """The best value of the first runs, at each run that was better than those before it."""
        at: list[float] = []
        values: list[float | None] = []
        last = 0
        for trial in self.trials:
            value = trial.value
            if not trial.counts or value is None or not math.isfinite(value):
                continue
            last = trial.index
            so_far = values[-1] if values else None
            if so_far is None or (value > so_far if self.maximize else value < so_far):
                at.append(trial.index)
                values.append(value)
        if at and last > at[-1]:
            at.append(last)
            values.append(values[-1])
        name = self.metric.name if self.metric else ""
        return Series("run", "", at, [Column(name, values, f"Best {name} so far")], is_stepped=True)

    def points(self) -> dict[str, Any]:
        """All values, for the pictures."""
        return {
            "axes": [{"name": axis.name, "kind": axis.kind, "words": axis.words} for axis in self.all_axes],
            "columns": [[None if v is None else float(f"{v:.6g}") for v in axis.values] for axis in self.all_axes],
            "has_metric": self.metric is not None,
            "maximize": self.maximize,
        }


def lay_out(config: SweepConfig, trials: Sequence[Trial], live_states: Mapping[str, RunState]) -> Trials:
    """The runs of a sweep. `live_states` are the states now of those that have not ended."""
    states = [
        live_states[trial.run_id].value if trial.live and trial.run_id in live_states else trial.state
        for trial in trials
    ]
    varied = [dim for dim in config.space.dimensions if (dim.domain is not None)]
    if config.method == "grid":
        grid = [config.space.grid_config(trial.index) for trial in trials]
        axes = [_axis(dim, [_at(made, dim.path) for made in grid]) for dim in varied]
    else:
        drawn = [[_value(dim, trial) for trial in trials] for dim in varied]
        axes = [_axis(dim, values) for dim, values in zip(varied, drawn, strict=True)]
    metric = None
    if config.metric:
        values = [trial.value if trial.value is not None and math.isfinite(trial.value) else None for trial in trials]
        metric = Axis(config.metric, "log" if _is_wide(values) else "number", (), values)
    return Trials(trials, states, axes, metric, config.maximize, best_of(config, trials))


def _axis(dim: Dimension, values: Sequence[Any]) -> Axis:
    if dim.values:
        words = tuple(_word(value) for value in dim.values)
        places = {word: place for place, word in reversed(list(enumerate(words)))}
        return Axis(dim.name, "word", words, [places.get(_word(value)) for value in values])
    return Axis(dim.name, "log" if "log" in dim.distribution else "number", (), values)


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _value(dim: Dimension, trial: Trial) -> Any:
    """The parameter of a run; None for what is damaged."""
    try:
        return dim.value(trial.drawn[dim.name])
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def _at(config: Mapping[str, Any], path: Sequence[str]) -> Any:
    found: Any = config
    for name in path:
        found = found[name]
    return found


def _is_wide(values: Sequence[float | None]) -> bool:
    known = [value for value in values if value is not None]
    return bool(known) and min(known) > 0 and max(known) > _WIDE * min(known)


# -- what a person picked, in the address ------------------------------------------------------------------------------


def read_picks(query: Sequence[tuple[str, str]]) -> dict[str, Picked]:
    """The parts of axes that an address names: `from:lr=0.1`, `to:lr=1`, `in:optimizer=adam`."""
    picks: dict[str, Picked] = {}
    for key, text in query:
        way, colon, name = key.partition(":")
        pick = picks.get(name, Picked())
        if not colon or not text:
            continue
        if way == "in":
            picks[name] = pick._replace(words=pick.words | {text})
        elif way in ("from", "to") and (number := _number(text)) is not None:
            picks[name] = pick._replace(low=number) if way == "from" else pick._replace(high=number)
    return picks


def write_picks(picks: Mapping[str, Picked]) -> str:
    """The same as a query; '' for none."""
    return urlencode(list(_pairs(picks)))


def _pairs(picks: Mapping[str, Picked]) -> Iterator[tuple[str, str]]:
    for name, pick in picks.items():
        for way, number in (("from", pick.low), ("to", pick.high)):
            if number is not None:
                yield f"{way}:{name}", f"{number:.12g}"
        yield from ((f"in:{name}", word) for word in sorted(pick.words))


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
