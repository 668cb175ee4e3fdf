"""Figures become what pictures and their tables show."""

from __future__ import annotations

import math
from typing import Any

from launch_worker.model.history import Phase, Transition
from launch_worker.model.states import RunState
from launch_worker.model.usage import Measured, Samples, Usage
from launch_worker.server.charts import in_unit, series_of_metrics, series_of_samples, spark, timeline

S = RunState
SECOND = 1_000_000


def test_metrics_of_one_kind_are_drawn_together() -> None:
    rows = [{"_step": 0, "train/loss": 2.0, "lr": 0.1}, {"_step": 10, "val/loss": 1.5, "val_loss": 1.4, "lr": 0.05}]
    series = series_of_metrics(rows)
    assert {column.name: column.plot for column in series.columns} == {
        "train/loss": "loss",
        "val/loss": "loss",
        "val_loss": "loss",
        "lr": "lr",
    }
    assert series.plots == ["loss", "lr"]
    assert series.at == [0, 10]
    assert [list(column.values) for column in series.columns if column.name == "val/loss"] == [[None, 1.5]]


def test_a_step_that_a_retry_tells_again_is_there_once_with_its_last_value() -> None:
    rows = [
        {"_step": 0, "loss": 3.0},
        {"_step": 1, "loss": 2.0, "lr": 1},
        {"_step": 0, "loss": 2.5},
        {"_step": 1, "loss": 1.0},
    ]
    series = series_of_metrics(rows)
    assert series.at == [0, 1]
    assert {column.name: column.values for column in series.columns} == {"loss": [2.5, 1.0], "lr": [None, 1]}


def test_what_is_no_number_is_not_drawn() -> None:
    rows: list[dict[str, Any]] = [
        {"_step": 0, "word": "a", "yes": True, "list": [1], "nan": math.nan, "x": 1},
        {"x": 2},
        {"_step": "?", "x": 3},
    ]
    series = series_of_metrics(rows)
    assert [(column.name, column.values) for column in series.columns] == [("x", [1, 2, 3])]
    assert not series_of_metrics([]).plots


def test_samples_have_the_line_of_what_was_asked_for() -> None:
    gib = 1 << 30
    samples = Samples(10.0, cpu=(1.0, None, 2.0), memory=(gib, 2 * gib), gpu=(None, None))
    series = series_of_samples(Measured(1, Usage(asked_memory=4 * gib), samples, True))
    assert [(column.name, column.asked) for column in series.columns] == [("cores", None), ("memory", 4 * gib)]
    assert series.at == [0, 10, 20]
    assert all(len(column.values) == 3 for column in series.columns)
    assert not series_of_samples(Measured(0, Usage(), None, False)).columns


def test_values_are_shown_in_their_units() -> None:
    assert [in_unit(None), in_unit(3), in_unit(0.1234567), in_unit(3 << 30, "bytes"), in_unit(90, "seconds")] == [
        "",
        "3",
        "0.123457",
        "3 GiB",
        "1 min 30 s",
    ]


def test_a_sparkline_has_a_gap_where_a_value_is_not_known() -> None:
    found = spark([1.0, 3.0, None, 2.0])
    assert found.lines == ["0,19 33.33,1", "100,10"]
    assert found.label == "from 1 to 2, least 1, most 3"
    assert spark([None, math.nan]) == ([], "no values")
    assert spark([5.0]).lines == ["0,10"]


def steps(*said: tuple[RunState, int, int]) -> list[Transition]:
    return [Transition(state, at * SECOND, attempt, "w", "") for state, at, attempt in said]


def test_each_attempt_is_a_bar_of_what_it_spent_its_time_on() -> None:
    history = steps((S.PENDING, 0, 0), (S.RUNNING, 20, 1), (S.FAILED, 30, 1), (S.PENDING, 30, 1), (S.RUNNING, 40, 2))
    phases = [Phase("fetch", 40 * SECOND, 10.0), Phase("pull", 50 * SECOND, 20.0), Phase("start", 70 * SECOND, 5.0)]
    first, second = timeline(history, phases, now_us=120 * SECOND, asked_us=100 * SECOND)
    assert (first.stretches, first.end, first.seconds) == ([("waiting", 20), ("run", 10)], "Failed", 10)
    assert [part.kind for part in first.bar.parts] == ["waiting", "failed"]
    assert second.stretches == [("waiting", 10), ("code", 10), ("image", 20), ("start", 5), ("run", 25), ("stop", 20)]
    assert (second.end, second.bar.label[:29]) == ("", "waiting 10 s, code 10 s, imag")
    # All bars have the scale of the longest one.
    assert sum(part.width for part in second.bar.parts) > 99.9
    assert round(sum(part.width for part in first.bar.parts)) == round(100 * 30 / 90)


def test_a_run_that_waits_or_was_preempted_has_a_bar_of_its_waiting() -> None:
    (waiting,) = timeline(steps((S.PENDING, 5, 0)), [], now_us=65 * SECOND)
    assert (waiting.attempt, waiting.stretches) == (1, [("waiting", 60)])
    assert not timeline([], [], now_us=0)


def test_an_attempt_that_proves_alive_after_a_crash_goes_on() -> None:
    history = steps((S.RUNNING, 0, 1), (S.CRASHED, 10, 1), (S.RUNNING, 12, 1), (S.FINISHED, 20, 1))
    bars = timeline(history, [], now_us=30 * SECOND)
    assert [(bar.attempt, bar.end, bar.seconds) for bar in bars] == [(1, "Finished", 20)]


def test_times_of_phases_that_cannot_be_are_kept_within_the_attempt() -> None:
    history = steps((S.RUNNING, 10, 1), (S.FINISHED, 20, 1))
    (bar,) = timeline(history, [Phase("start", 5 * SECOND, 100.0)], now_us=30 * SECOND)
    assert bar.seconds == 10
