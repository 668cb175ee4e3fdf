"""The parameters of sweeps: each distribution's bounds and shape, the grid, and what is refused."""

from __future__ import annotations

import math
from collections import Counter
from statistics import fmean, median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch_worker.sweeps.space import DISTRIBUTIONS, Dimension, Space, flat, parse_space


def space(**parameters: Any) -> Space:
    problems: list[str] = []
    made = parse_space(parameters, problems)
    assert not problems
    return made


def one(**said: Any) -> Dimension:
    return space(x=said).dimensions[0]


def problems_of(**parameters: Any) -> list[str]:
    problems: list[str] = []
    parse_space(parameters, problems)
    return problems


def spread(dim: Dimension, count: int = 2001) -> list[Any]:
    """Its values for draws that lie evenly over its domain, both ends among them."""
    domain = dim.domain
    assert domain is not None
    low, high = (math.log(domain.low), math.log(domain.high)) if domain.log else (domain.low, domain.high)
    drawn = [low + (high - low) * at / (count - 1) for at in range(count)]
    if domain.kind == "float":
        return [dim.value(min(max(math.exp(x), domain.low), domain.high) if domain.log else x) for x in drawn]
    return [dim.value(round(x)) for x in drawn]


@pytest.mark.parametrize(
    ("said", "low", "high"),
    [
        ({"min": 1, "max": 6}, 1, 6),
        ({"distribution": "int_uniform", "min": -3, "max": 3}, -3, 3),
        ({"min": 0.5, "max": 2}, 0.5, 2),
        ({"distribution": "uniform", "min": -1, "max": 1}, -1, 1),
        ({"distribution": "q_uniform", "min": 0.05, "max": 0.95, "q": 0.1}, 0.1, 0.9),
        ({"distribution": "q_uniform", "min": 1, "max": 10, "q": 3}, 3, 9),
        ({"distribution": "log_uniform", "min": -2, "max": 1}, math.exp(-2), math.e),
        ({"distribution": "log_uniform_values", "min": 1e-5, "max": 0.1}, 1e-5, 0.1),
        ({"distribution": "q_log_uniform", "min": 0, "max": 3, "q": 2}, 2, 20),
        ({"distribution": "q_log_uniform_values", "min": 30, "max": 260, "q": 8}, 32, 256),
        ({"distribution": "inv_log_uniform", "min": -1, "max": 2}, math.exp(-2), math.e),
        ({"distribution": "inv_log_uniform_values", "min": 0.01, "max": 10}, 0.01, 10),
        ({"distribution": "beta", "a": 2, "b": 5}, 0, 1),
        ({"distribution": "q_beta", "a": 2, "b": 5, "q": 0.25}, 0, 1),
        ({"values": [3, 1, 2]}, 1, 3),
    ],
)
def test_a_distribution_keeps_its_bounds_and_reaches_them(said: dict[str, Any], low: float, high: float) -> None:
    values = spread(one(**said))
    width = high - low
    assert low - 1e-12 <= min(values) <= low + 0.05 * width
    assert high - 0.05 * width <= max(values) <= high * (1 + 1e-12)


@pytest.mark.parametrize(
    ("said", "middle"),
    [
        ({"distribution": "normal", "mu": 3, "sigma": 2}, 3),
        ({"distribution": "q_normal", "mu": 3, "sigma": 2, "q": 0.5}, 3),
        ({"distribution": "log_normal", "mu": 1, "sigma": 0.5}, math.e),
        ({"distribution": "q_log_normal", "mu": 3, "sigma": 0.5, "q": 1}, 20),
        ({"distribution": "log_uniform_values", "min": 0.01, "max": 100}, 1),
        ({"distribution": "inv_log_uniform_values", "min": 0.01, "max": 100}, 1),
        ({"distribution": "beta", "a": 2, "b": 2}, 0.5),
    ],
)
def test_a_distribution_has_its_median(said: dict[str, Any], middle: float) -> None:
    assert median(spread(one(**said))) == pytest.approx(middle, rel=1e-3)


def test_a_normal_distribution_has_its_spread() -> None:
    values = spread(one(distribution="normal", mu=10, sigma=2))
    assert fmean(values) == pytest.approx(10, abs=0.01)
    share = sum(8 <= value <= 12 for value in values) / len(values)
    assert share == pytest.approx(0.683, abs=0.01)
    assert all(math.isfinite(value) for value in values)


@given(
    st.sampled_from(["uniform", "q_uniform", "log_uniform_values", "q_log_uniform_values", "inv_log_uniform_values"]),
    st.floats(1e-6, 1e6),
    st.floats(1, 1e4),
    st.sampled_from([0.001, 0.1, 1, 7, 0.3]),
    st.floats(0, 1),
)
def test_no_draw_leads_out_of_the_bounds(kind: str, low: float, factor: float, q: float, share: float) -> None:
    said = {"distribution": kind, "min": low, "max": low * factor} | ({"q": q} if kind.startswith("q_") else {})
    problems: list[str] = []
    made = parse_space({"x": said}, problems)
    if problems:
        assert "multiple" in problems[0]
        return
    dim = made.dimensions[0]
    domain = dim.domain
    assert domain is not None
    drawn = domain.low + share * (domain.high - domain.low)
    value = dim.value(round(drawn) if domain.kind == "int" else drawn)
    assert low <= value <= low * factor
    if "q" in said:
        assert (value / q) == pytest.approx(round(value / q))


@pytest.mark.parametrize(
    ("said", "distribution", "kind"),
    [
        ({"value": 3}, "constant", None),
        ({"values": ["a", "b"]}, "categorical", "choice"),
        ({"values": ["a"]}, "categorical", None),
        ({"values": ["a", "b"], "probabilities": [0.5, 0.5]}, "categorical_w_probabilities", "float"),
        ({"min": 1, "max": 2}, "int_uniform", "int"),
        ({"min": 1, "max": 2.0}, "uniform", "float"),
        ({"mu": 1}, "normal", "float"),
    ],
)
def test_the_distribution_that_is_not_named_is_wandbs(said: dict[str, Any], distribution: str, kind: str) -> None:
    dim = one(**said)
    assert dim.distribution == distribution
    assert (dim.domain and dim.domain.kind) == kind


def test_probabilities_are_kept() -> None:
    values = spread(one(values=["a", "b", "c"], probabilities=[0.5, 0, 0.5]))
    counts = Counter(values)
    assert set(counts) == {"a", "c"}
    assert counts["a"] / len(values) == pytest.approx(0.5, abs=0.01)


def test_whole_steps_stay_whole_and_decimal_ones_as_they_are_written() -> None:
    assert all(isinstance(value, int) for value in spread(one(distribution="q_log_uniform_values", min=8, max=99, q=8)))
    steps = sorted(set(spread(one(distribution="q_uniform", min=0, max=0.5, q=0.1))))
    assert steps == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]


def test_nested_parameters_are_nested_in_the_config() -> None:
    made = space(
        opt={"parameters": {"name": {"values": ["sgd", "adam"]}, "more": {"parameters": {"lr": {"value": 0.1}}}}},
        n={"min": 1, "max": 3},
    )
    assert set(made.drawn) == {"opt.name", "n"}
    config = made.config({"opt.name": 1, "n": 2})
    assert config == {"opt": {"name": "adam", "more": {"lr": 0.1}}, "n": 2}
    assert dict(flat(config)) == {"opt.name": "adam", "opt.more.lr": 0.1, "n": 2}


def test_a_grid_has_each_point_once_the_last_parameter_fastest() -> None:
    made = space(
        a={"values": [1, 1.0, True, 1]},
        b={"min": 5, "max": 6},
        c={"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.5},
        d={"value": None},
    )
    assert made.grid_size == 3 * 2 * 3
    points = [made.grid_config(index) for index in range(18)]
    assert points[:4] == [
        {"a": 1, "b": 5, "c": 0.0, "d": None},
        {"a": 1, "b": 5, "c": 0.5, "d": None},
        {"a": 1, "b": 5, "c": 1.0, "d": None},
        {"a": 1, "b": 6, "c": 0.0, "d": None},
    ]
    assert [type(point["a"]) for point in points[::6]] == [int, float, bool]
    assert len({repr(point) for point in points}) == 18


def test_a_huge_grid_is_not_written_out() -> None:
    made = space(**{f"x{number}": {"min": 0, "max": 10**9} for number in range(5)})
    assert made.grid_size == (10**9 + 1) ** 5
    assert made.grid_config(made.grid_size - 1) == {f"x{number}": 10**9 for number in range(5)}


def test_what_has_no_end_has_no_grid() -> None:
    assert space(x={"min": 0.0, "max": 1.0}, y={"value": 1}).grid_size is None


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({}, "says nothing"),
        (3, "value: 3"),
        ({"valus": [1]}, "'values'"),
        ({"values": []}, "at least one"),
        ({"values": "abc"}, "list"),
        ({"values": [{1, 2}]}, "JSON"),
        ({"value": float("nan")}, "JSON"),
        ({"value": 1, "min": 2}, "min has no meaning for constant"),
        ({"min": 1}, "max is missing"),
        ({"min": "a", "max": 2}, "must be a number"),
        ({"min": True, "max": 2}, "must be a number"),
        ({"min": 2, "max": 1}, "above"),
        ({"min": float("-inf"), "max": 1.0}, "must be a number"),
        ({"distribution": "int_uniform", "min": 0.5, "max": 2}, "whole number"),
        ({"distribution": "int_uniform", "min": 0, "max": 2**60}, "from -"),
        ({"distribution": "unifrom", "min": 1, "max": 2}, "unknown"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 1}, "more than 0"),
        ({"distribution": "log_uniform", "min": 1, "max": 1000}, "exponents"),
        ({"distribution": "q_uniform", "min": 1, "max": 2, "q": 0}, "more than 0"),
        ({"distribution": "q_uniform", "min": 1, "max": 2, "q": 5}, "no multiple"),
        ({"distribution": "q_uniform", "min": 0, "max": 1e9, "q": 1e-30}, "too small"),
        ({"distribution": "normal", "sigma": -1}, "sigma must be more than 0"),
        ({"distribution": "normal", "min": 1}, "min has no meaning"),
        ({"distribution": "beta", "a": 0}, "a must be more than 0"),
        ({"values": [1, 2], "probabilities": [1]}, "2 numbers"),
        ({"values": [1, 2], "probabilities": [0.5, 0.6]}, "1 in all"),
        ({"parameters": {"y": {"value": 1}}, "value": 2}, "nothing else"),
        ({"parameters": {}}, "must be a map of names"),
    ],
)
def test_what_is_wrong_with_a_parameter_is_named(said: Any, words: str) -> None:
    """W22."""
    found = problems_of(lr=said, fine={"value": 1})
    assert len(found) == 1
    assert found[0].startswith("parameters.lr")
    assert words in found[0]


def test_a_name_cannot_be_there_twice_by_a_dot() -> None:
    assert "twice" in problems_of(**{"a.b": {"value": 1}, "a": {"parameters": {"b": {"value": 2}}}})[0]


def test_too_deep_a_nest_is_refused() -> None:
    said: dict[str, Any] = {"value": 1}
    for _ in range(12):
        said = {"parameters": {"x": said}}
    assert "deeply" in problems_of(x=said)[0]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_every_distribution_is_told_what_it_lacks_or_is_fine(distribution: str) -> None:
    found = problems_of(x={"distribution": distribution})
    if distribution.endswith(("normal", "beta")):
        assert found == []
    else:
        assert all("is missing" in problem for problem in found)
        assert found
