"""Durations, sizes and times: what people write is read, everything else is refused by name."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch_worker.errors import InputError
from launch_worker.units import MAX_DURATION_S, format_duration, isoformat, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90.0),
        ("90s", 90.0),
        (" 90s ", 90.0),
        ("250ms", 0.25),
        ("1.5m", 90.0),
        ("2h", 7200.0),
        ("3d", 259200.0),
        ("0", 0.0),
        ("3650d", MAX_DURATION_S),
        (5, 5.0),
        (0.25, 0.25),
    ],
)
def test_a_duration_is_read_as_seconds(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "s", "abc", "-1", "-1s", "+5", "1 h", "1h30m", "1,5m", ".5", "5.", "1e3", "0x10", "nan", "inf"),
        *("5S", "5 s s", "5w", "5\x00", "5s\n5s", "3651d", "9" * 400, "9" * 5000),
        *(-1, -0.001, float("nan"), float("inf"), MAX_DURATION_S + 1, True, False),
    ],
)
def test_what_is_no_duration_is_refused(text: str | float) -> None:
    with pytest.raises(InputError):
        parse_duration(text)


def test_a_refused_duration_names_what_it_is_for() -> None:
    with pytest.raises(InputError, match=r"^grace 'soon' is not a duration; write it as"):
        parse_duration("soon", what="grace")


@given(st.text(max_size=20))
def test_any_text_is_a_duration_in_range_or_refused(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except InputError:
        return
    assert 0 <= seconds <= MAX_DURATION_S


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1048576", 1 << 20),
        ("512K", 512 << 10),
        ("512M", 512 << 20),
        ("2G", 2 << 30),
        ("1T", 1 << 40),
        ("2GiB", 2 << 30),
        ("2gb", 2 << 30),
        ("0", 0),
        (4096, 4096),
    ],
)
def test_a_size_is_read_as_bytes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1", "1.5G", "1 G", "1P", "1e3", "2GG", "1\n1", "9" * 5000, True])
def test_what_is_no_size_is_refused(text: str | int) -> None:
    with pytest.raises(InputError):
        parse_size(text, what="memory")


@given(st.text(max_size=20))
def test_any_text_is_a_size_or_refused(text: str) -> None:
    with contextlib.suppress(InputError):
        assert parse_size(text) >= 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0 s"), (0.25, "0.25 s"), (30, "30 s"), (60, "1 m"), (300, "5 m"), (5400, "1.5 h")),
        *((86400, "1 d"), (2592000, "30 d")),
    ],
)
def test_a_duration_is_written_in_its_largest_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_times_are_iso_8601_in_utc_and_unknown_is_none() -> None:
    assert isoformat(1_700_000_000_123_456) == "2023-11-14T22:13:20.123+00:00"
    assert isoformat(None) is None
