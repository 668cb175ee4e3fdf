"""Durations, ages, sizes and numbers as people read them."""

from __future__ import annotations

import pytest

from launch_worker import humane


@pytest.mark.parametrize(
    ("seconds", "text", "short"),
    [
        (-1, "0 ms", "0 ms"),
        (0.045, "45 ms", "45 ms"),
        (0.9999, "1 s", "1 s"),
        (1.25, "1.2 s", "1 s"),
        (41.2, "41 s", "41 s"),
        (59.7, "1 min", "1 min"),
        (123, "2 min 3 s", "2 min"),
        (7200, "2 h", "2 h"),
        (7919, "2 h 11 min", "2 h"),
        (3 * 86400 + 4 * 3600, "3 d 4 h", "3 d"),
        (332 * 86400 + 3600, "332 d", "332 d"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: float, text: str, short: str) -> None:
    assert humane.duration(seconds) == text
    assert humane.span(seconds) == short


def test_an_age_says_past_and_future() -> None:
    assert [humane.ago(s) for s in (0.2, 12, 200, -200)] == ["now", "12 s ago", "3 min ago", "in 3 min"]


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (1536, "1.5 KiB"),
        (11 << 30, "11 GiB"),
        (1023 << 20, "0.999 GiB"),
        (5 << 50, "5120 TiB"),
    ],
)
def test_a_size_has_three_digits(size_bytes: float, text: str) -> None:
    assert humane.size(size_bytes) == text


def test_numbers_have_their_thousands_apart_and_nouns_their_number() -> None:
    assert humane.plural(1, "run") == "1 run"
    assert humane.plural(3056, "run") == "3,056 runs"
    assert humane.plural(2, "query", "queries") == "2 queries"
    assert [humane.figure(v) for v in (0.93333, 12.5, 3, 0.000012)] == ["0.9333", "12.5", "3", "1.2e-05"]
