"""Durations, sizes and times: what people write is read, everything else is refused by name."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch_worker.errors import InputError
from launch_worker.model.units import MAX_DURATION_S, format_duration, isoformat, parse_duration, parse_size, parse_time


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90.0),
        ("90s", 90.0),
        (" 90s ", 90.0),
        ("250ms", 0.25),
        ("1.5m", 90.0),
        ("1h30m", 5400.0),
        ("1d12h", 129600.0),
        ("1m30s500ms", 90.5),
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
        *(
            "",
            " ",
            "s",
            "abc",
            "-1",
            "-1s",
            "+5",
            "1 h",
            "30m1h",
            "1h1h",
            "1h30",
            "1,5m",
            ".5",
            "5.",
            "1e3",
            "0x10",
            "nan",
            "inf",
        ),
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
        ("1.5G", 3 << 29),
        ("0.5k", 512),
        ("1T", 1 << 40),
        ("2GiB", 2 << 30),
        ("2gb", 2 << 30),
        ("0", 0),
        (4096, 4096),
    ],
)
def test_a_size_is_read_as_bytes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "M", "-1", "1.5", "1.5B", ".5G", "1 G", "1P", "1e3", "2GG", "1\n1", "9" * 5000, True]
)
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


@pytest.fixture
def berlin() -> Iterator[None]:
    """This machine is in Berlin for a while."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "Europe/Berlin"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


#: 2026-07-01T12:00:00 in Berlin.
NOON_S = datetime(2026, 7, 1, 10, tzinfo=UTC).timestamp()


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("value", "time_in_utc"),
    [
        ("2026-07-02", "2026-07-01T22:00:00.000+00:00"),
        ("2026-07-02T08:30", "2026-07-02T06:30:00.000+00:00"),
        ("2026-07-02 08:30:15.25", "2026-07-02T06:30:15.250+00:00"),
        ("2026-12-24T18:00", "2026-12-24T17:00:00.000+00:00"),
        ("2026-07-02T08:30Z", "2026-07-02T08:30:00.000+00:00"),
        ("2026-07-02t08:30:00z", "2026-07-02T08:30:00.000+00:00"),
        ("2026-07-02T08:30+05:30", "2026-07-02T03:00:00.000+00:00"),
        ("2026-07-02T08:30:00-0700", "2026-07-02T15:30:00.000+00:00"),
        ("2026-07-02T08:30:00.1234567+02", "2026-07-02T06:30:00.123+00:00"),
        (" 12:01 ", "2026-07-01T10:01:00.000+00:00"),
        ("12:00", "2026-07-02T10:00:00.000+00:00"),
        ("9:05", "2026-07-02T07:05:00.000+00:00"),
        ("23:59:59", "2026-07-01T21:59:59.000+00:00"),
        ("1783000000", "2026-07-02T13:46:40.000+00:00"),
        ("1783000000.5", "2026-07-02T13:46:40.500+00:00"),
        (1783000000, "2026-07-02T13:46:40.000+00:00"),
        (1783000000.25, "2026-07-02T13:46:40.250+00:00"),
        (datetime(2026, 7, 2, 8), "2026-07-02T06:00:00.000+00:00"),
        (datetime(2026, 7, 2, 8, tzinfo=timezone(timedelta(hours=-3))), "2026-07-02T11:00:00.000+00:00"),
    ],
)
def test_a_time_is_read_as_microseconds(value: str | float | datetime, time_in_utc: str) -> None:
    assert isoformat(parse_time(value, now_s=NOON_S)) == time_in_utc


@pytest.mark.usefixtures("berlin")
def test_a_time_of_day_is_tomorrows_also_over_a_change_of_the_clocks() -> None:
    eve = datetime(2026, 10, 24, 12, tzinfo=UTC).timestamp()
    assert isoformat(parse_time("08:00", now_s=eve)) == "2026-10-25T07:00:00.000+00:00"


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", "soon", "tomorrow", "24:00", "12:60", "12", "-5", "nan", "inf", "1e9", "1" * 400, "20260701"),
        *("2026-13-01", "2026-02-30", "0000-01-01", "9999-12-31", "2046-07-01", "2026-07-01\n12:00"),
        *("2026-07-01T25:00", "2026-07-01T12", "2026-07-01T12:00+99:99", "2026-07-01T12:00X", "٢٠٢٦-٠٧-٠١"),
        *(True, False, float("nan"), float("inf"), 1e300, -1e300, 5, datetime.min, datetime.max),
    ],
)
def test_what_is_no_time_is_refused(value: str | float | datetime) -> None:
    with pytest.raises(InputError, match=r"^start "):
        parse_time(value, now_s=NOON_S, what="start")


@given(st.text(max_size=30))
def test_any_text_is_a_time_or_refused(text: str) -> None:
    with contextlib.suppress(InputError):
        parse_time(text)
