"""The runs of a sweep are laid out for its pictures and its table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from launch_worker.model.states import RunState
from launch_worker.model.sweep import Trial
from launch_worker.server.trials import Picked, Trials, lay_out, read_picks, write_picks
from launch_worker.sweeps.config import parse_config

RANDOM = {
    "method": "random",
    "command": ["true"],
    "metric": {"name": "loss", "goal": "minimize"},
    "parameters": {
        "lr": {"distribution": "log_uniform_values", "min": 1e-6, "max": 1.0},
        "optimizer": {"parameters": {"name": {"values": ["adam", "sgd"]}}},
        "kept": {"value": 3},
    },
}


def laid_out(*values: float | None, said: Mapping[str, Any] = RANDOM) -> Trials:
    trials = [
        Trial(
            place,
            f"run{place}",
            {"lr": 10.0**-place, "optimizer.name": place % 2},
            live=value is None,
            state="" if value is None else "Finished",
            value=value,
        )
        for place, value in enumerate(values)
    ]
    return lay_out(parse_config(said), trials, {trial.run_id: RunState.RUNNING for trial in trials if trial.live})


def test_each_parameter_that_varies_and_the_metric_is_an_axis() -> None:
    trials = laid_out(3.0, 1.0, None)
    assert [(axis.name, axis.kind) for axis in trials.all_axes] == [
        ("lr", "log"),
        ("optimizer.name", "word"),
        ("loss", "number"),
    ]
    assert [axis.text(1) for axis in trials.all_axes] == ["0.1", "sgd", "1"]
    assert [axis.text(2) for axis in trials.all_axes] == ["0.01", "adam", ""]
    assert (trials.counts, trials.best and trials.best.index) == ({"Finished": 2, "Running": 1}, 1)


def test_a_grid_has_the_values_of_its_points() -> None:
    said = {
        "method": "grid",
        "command": ["true"],
        "parameters": {"a": {"values": [1, True, None, [2]]}, "b": {"min": 0, "max": 1}},
    }
    trials = laid_out(*[None] * 8, said=said)
    assert [trials.axes[0].text(place) for place in range(0, 8, 2)] == ["1", "true", "null", "[2]"]
    assert [axis.values[3] for axis in trials.axes] == [1, 1]
    assert trials.metric is None
    assert trials.ordered(range(3), "") == [2, 1, 0]


def test_a_damaged_run_has_no_values() -> None:
    trials = lay_out(parse_config(RANDOM), [Trial(0, "r", {"lr": 0.1}), Trial(1, "r", {"optimizer.name": 9})], {})
    assert [list(axis.values) for axis in trials.all_axes] == [[0.1, None], [None, None], [None, None]]


def test_runs_are_picked_by_parts_of_axes() -> None:
    trials = laid_out(3.0, 1.0, 2.0, None)
    assert trials.picked({}) == [0, 1, 2, 3]
    assert trials.picked({"lr": Picked(low=0.01)}) == [0, 1, 2]
    assert trials.picked({"lr": Picked(low=0.01), "optimizer.name": Picked(words=frozenset({"adam"}))}) == [0, 2]
    # What has no value is in no part of its axis; an axis that is not there picks nothing out.
    assert trials.picked({"loss": Picked(high=2.0), "gone": Picked(low=0.0)}) == [1, 2]


def test_what_is_picked_stands_in_the_address() -> None:
    query = [("from:lr", "0.001"), ("to:lr", ""), ("in:o", "a b"), ("in:o", "c"), ("from:x", "nan"), ("page", "2")]
    picks = read_picks(query)
    assert picks == {"lr": Picked(low=0.001), "o": Picked(words=frozenset({"a b", "c"}))}
    assert write_picks(picks) == "from%3Alr=0.001&in%3Ao=a+b&in%3Ao=c"


def test_the_best_run_comes_first_and_what_has_no_value_last() -> None:
    trials = laid_out(3.0, None, 1.0, 2.0, None)
    assert trials.ordered(range(5), "") == [2, 3, 0, 4, 1]
    assert trials.ordered(range(5), "-loss") == [0, 3, 2, 4, 1]
    assert trials.ordered(range(5), "lr") == [4, 3, 2, 1, 0]
    assert trials.ordered(range(5), "-state") == [4, 1, 3, 2, 0]
    assert trials.ordered(range(3), "number") == [0, 1, 2]


def test_the_best_so_far_has_a_row_for_each_run_that_was_better() -> None:
    series = laid_out(3.0, 4.0, None, 1.0, 2.0).best_so_far()
    assert (series.at, series.columns[0].values) == ([0, 3, 4], [3.0, 1.0, 1.0])
    assert not laid_out(None).best_so_far().at


def test_points_are_short() -> None:
    points = laid_out(1 / 3, None).points()
    assert points["columns"] == [[1.0, 0.1], [0, 1], [0.333333, None]]
    assert (points["has_metric"], points["maximize"]) == (True, False)
