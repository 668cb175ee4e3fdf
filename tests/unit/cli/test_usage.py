"""Figures over time as one line of bars."""

from __future__ import annotations

import pytest

from launch_worker.cli.usage import sparkline


@pytest.mark.parametrize(
    ("values", "bars"),
    [
        ((0, 1, 2, 3, 4, 5, 6, 7), "▁▂▃▄▅▆▇█"),
        ((5, 5), "██"),
        ((0, 0), "▁▁"),
        ((1, None, 2), "▅ █"),
        ((-1, 0, 1), "▁▅█"),
    ],
)
def test_the_largest_value_is_the_tallest_bar(values: tuple[float | None, ...], bars: str) -> None:
    assert sparkline(values) == bars


def test_a_long_series_keeps_its_peaks() -> None:
    values = [1.0] * 1000
    values[777] = 8.0
    shown = sparkline(values, width=60)
    assert len(shown) == 60
    assert shown.count("█") == 1
