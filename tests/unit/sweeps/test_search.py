"""What a sweep tries next, and which runs are stopped early."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import pytest

from launch_worker.errors import InputError, LaunchError
from launch_worker.model.sweep import Trial
from launch_worker.sweeps.config import SweepConfig, SweepConfigError, parse_config
from launch_worker.sweeps.hyperband import Hyperband, parse_hyperband
from launch_worker.sweeps.search import best_of, check_engines, hopeless, suggest

SAID: dict[str, Any] = {
    "method": "bayes",
    "program": "t.py",
    "metric": {"name": "loss"},
    "parameters": {
        "x": {"min": -5.0, "max": 5.0},
        "n": {"min": 0, "max": 20},
        "kind": {"values": ["good", "bad", {"worse": 1}]},
        "fixed": {"value": 3},
    },
}


def loss(config: dict[str, Any]) -> float:
    return float(config["x"] ** 2 + abs(config["n"] - 7) + 5 * (config["kind"] != "good"))


def play(config: SweepConfig, count: int, *, seed: int = 1, live: int = 3) -> list[Trial]:
    """A whole sweep with so many live runs, the oldest ending first."""
    trials: list[Trial] = []
    ended: list[int] = []
    while len(trials) < count:
        drawn = suggest(config, trials, seed=seed, ended=ended)
        trials.append(Trial(len(trials), f"run{len(trials)}", drawn.drawn, seen=len(ended)))
        if len(trials) - len(ended) >= live:
            index = len(ended)
            value = loss(config.space.config(trials[index].drawn))
            trials[index] = replace(trials[index], live=False, state="Finished", value=value)
            ended.append(index)
    return trials


def values(trials: list[Trial]) -> list[float]:
    return [trial.value for trial in trials if trial.value is not None]


@pytest.mark.parametrize("sampler", [None, "RandomSampler", "NSGAIISampler"])
def test_the_same_runs_and_results_suggest_the_same(sampler: str | None) -> None:
    """Also where the sampler remembers: it is played again from the beginning."""
    config = parse_config(SAID | ({"sampler": sampler} if sampler else {}))
    once, again = play(config, 15), play(config, 15)
    assert once == again
    assert len({tuple(trial.drawn.items()) for trial in once}) > 10
    assert play(config, 15, seed=2) != once


def test_every_suggestion_is_in_the_space() -> None:
    for trial in play(parse_config(SAID), 20):
        assert -5 <= trial.drawn["x"] <= 5
        assert trial.drawn["n"] in range(21)
        assert trial.drawn["kind"] in range(3)
        assert "fixed" not in trial.drawn


def test_bayes_finds_better_values_than_random() -> None:
    by_bayes = values(play(parse_config(SAID), 60))
    by_chance = values(play(parse_config(SAID | {"method": "random"}), 60))
    assert median(by_bayes) < median(by_chance)
    assert min(by_bayes[30:]) < median(by_chance)


def test_failed_and_valueless_runs_are_no_results() -> None:
    config = parse_config(SAID)
    trials = [replace(trial, state="Failed", live=False) for trial in play(config, 14)]
    trials[3] = replace(trials[3], state="Finished", value=None)
    assert best_of(config, trials) is None
    suggest(config, trials, seed=1, ended=range(14))


def test_the_best_run_follows_the_goal() -> None:
    trials = [
        Trial(index, "", live=False, state="Finished", value=value) for index, value in enumerate((2.0, 1.0, 1.0, 3.0))
    ]
    least, most = parse_config(SAID), parse_config(SAID | {"metric": {"name": "loss", "goal": "maximize"}})
    assert (best := best_of(least, trials)) is not None
    assert best.index == 1
    assert (best := best_of(most, trials)) is not None
    assert best.index == 3


def test_a_grid_needs_no_optuna(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    said = {"method": "grid", "program": "t.py", "parameters": {"x": {"values": [1, 2]}}}
    config = parse_config(said)
    check_engines(config, where="it")
    assert suggest(config, [Trial(0, "a")], seed=0, ended=()).config == {"x": 2}
    with pytest.raises(LaunchError, match=r"launch_worker\[sweeps\]"):
        check_engines(parse_config(SAID), where="it")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"sampler": "NoSuchSampler"}, "'NoSuchSampler' is not one of Optuna's: .*TPESampler"),
        ({"sampler": "BaseSampler"}, "is not one of Optuna's"),
        ({"sampler": "GridSampler"}, "method: grid"),
        ({"sampler": {"name": "TPESampler", "nosuch": 1}}, "TPESampler does not take these arguments"),
        ({"sampler": {"name": "BruteForceSampler"}}, "sampler: BruteForceSampler failed"),
        ({"pruner": "NoSuchPruner"}, "pruner: 'NoSuchPruner'"),
        ({"pruner": {"name": "PercentilePruner"}}, "PercentilePruner does not take"),
        ({"sampler": "os"}, "is not one of Optuna's"),
    ],
)
def test_a_sampler_or_pruner_that_cannot_be_is_named(more: dict[str, Any], words: str) -> None:
    """W22."""
    with pytest.raises(SweepConfigError, match=words):
        check_engines(parse_config(SAID | more), where="sweep.yaml")


def test_pruners_can_be_within_pruners() -> None:
    pruner = {"name": "PatientPruner", "patience": 1, "wrapped_pruner": {"name": "MedianPruner", "n_startup_trials": 1}}
    check_engines(parse_config(SAID | {"pruner": pruner}), where="sweep.yaml")


def curve(*told: float) -> tuple[tuple[int, float], ...]:
    return tuple(enumerate(told, start=1))


def test_a_pruner_stops_live_runs_only() -> None:
    config = parse_config(SAID | {"pruner": {"name": "MedianPruner", "n_startup_trials": 2}})
    drawn = [trial.drawn for trial in play(config, 5)]
    trials = [
        Trial(0, "", drawn[0], live=False, state="Finished", value=1.0, curve=curve(3, 2, 1)),
        Trial(1, "", drawn[1], live=False, state="Finished", value=9.0, curve=curve(9, 9, 9)),
        Trial(2, "", drawn[2], live=False, state="Finished", value=1.5, curve=curve(3, 2, 1.5)),
        Trial(3, "", drawn[3], curve=curve(8, 8)),
        Trial(4, "", drawn[4], curve=curve(2, 1)),
    ]
    assert list(hopeless(config, trials)) == [3]


# -- hyperband --------------------------------------------------------------------------------------------------------


def brackets(**said: Any) -> Callable[[int], tuple[int, ...]]:
    problems: list[str] = []
    made = parse_hyperband({"type": "hyperband", **said}, problems)
    assert made is not None, problems
    return lambda count: made.brackets[:count]


def test_the_brackets_are_wandbs() -> None:
    """Its documentation's examples."""
    assert brackets(min_iter=3)(4) == (3, 9, 27, 81)
    assert brackets(max_iter=27, s=2)(9) == (3, 9)
    assert brackets(max_iter=27, s=2, eta=3)(9) == (3, 9)
    assert brackets(min_iter=1, eta=2)(5) == (1, 2, 4, 8, 16)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({}, "one of min_iter and max_iter"),
        ({"min_iter": 1, "max_iter": 9, "s": 1}, "one of min_iter and max_iter"),
        ({"max_iter": 9}, "needs s"),
        ({"max_iter": 2, "s": 3}, "no bracket"),
        ({"min_iter": 0}, "min_iter"),
        ({"min_iter": 1, "eta": 1}, "eta"),
        ({"min_iter": 1, "miniter": 1}, "unknown"),
    ],
)
def test_a_hyperband_that_makes_no_sense_is_refused(said: dict[str, Any], words: str) -> None:
    """W22."""
    problems: list[str] = []
    assert parse_hyperband({"type": "hyperband", **said}, problems) is None
    assert words in " ".join(problems)


def test_a_run_is_stopped_when_it_is_not_among_the_best_third_at_its_bracket() -> None:
    band = Hyperband((2, 6), eta=3.0)
    others = [[5.0, 4.0], [3.0, 3.5], [9.0, 9.0, 9.0], [1.0], [8.0, 2.0], [7.0, 7.0]]
    assert band.verdict([1.0], others, maximize=False) == ""
    assert band.verdict([9.0, 2.5], others, maximize=False) == ""
    assert "best 2 of 6" in band.verdict([6.0, 6.0, 0.0], others, maximize=False)
    assert band.verdict([9.0, 9.5], others, maximize=True) == ""
    assert band.verdict([1.0, 2.0], others, maximize=True) != ""


def test_no_run_is_stopped_before_there_are_enough_to_compare() -> None:
    band = Hyperband((1,), eta=3.0)
    assert band.verdict([9.0], [[1.0]], maximize=False) == ""
    assert band.verdict([9.0], [[1.0], [2.0]], maximize=False) != ""


HUGE = 10**9


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"sampler": {"name": "TPESampler", "n_ei_candidates": HUGE}}, "at most 1,000 as n_ei_candidates"),
        ({"sampler": {"name": "NSGAIISampler", "population_size": HUGE}}, "at most 1,000 as population_size"),
        (
            {
                "sampler": {
                    "name": "QMCSampler",
                    "independent_sampler": {"name": "TPESampler", "n_ei_candidates": HUGE},
                }
            },
            "at most 1,000 as n_ei_candidates",
        ),
        (
            {"pruner": {"name": "SuccessiveHalvingPruner", "min_early_stopping_rate": HUGE}},
            "at most 1,000 as min_early_stopping_rate",
        ),
        (
            {"sampler": "BruteForceSampler", "parameters": {"n": {"min": 0, "max": HUGE}}},
            "n has 1,000,000,001 values, and BruteForceSampler looks at each of them",
        ),
        ({"parameters": {"n": {"values": list(range(20_000))}}}, "n has 20,000 values, and TPESampler looks at each"),
        ({"parameters": {f"p{n}": {"min": 0, "max": 1} for n in range(1001)}}, "1,001 parameters are to be drawn"),
    ],
)
def test_a_sweep_that_takes_too_much_of_who_draws_is_refused_at_once(more: dict[str, Any], words: str) -> None:
    # A server and workers draw what a member of a team, or whoever can write to Redis, has written.
    config = parse_config(SAID | more)
    with pytest.raises(SweepConfigError, match=words):
        check_engines(config, where="it")
    if "pruner" not in more:
        with pytest.raises(InputError, match=words):
            suggest(config, [], seed=1, ended=[])


def test_steps_of_runs_are_counted_as_far_as_one_likes() -> None:
    pruner = {
        "name": "PatientPruner",
        "patience": HUGE,
        "wrapped_pruner": {"name": "MedianPruner", "n_warmup_steps": HUGE},
    }
    check_engines(parse_config(SAID | {"pruner": pruner}), where="it")
