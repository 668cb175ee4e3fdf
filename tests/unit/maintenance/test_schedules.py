"""When a recurring submission comes, over changes of the clocks and after an absence, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch_worker.errors import InputError
from launch_worker.maintenance.schedules import occurrence
from launch_worker.model.schedule import Schedule, check_cron
from launch_worker.model.units import parse_time

BERLIN = "Europe/Berlin"


def schedule(cron: str, *, zone: str = "UTC", missed: str = "skip", name: str = "nightly", **given: Any) -> Schedule:
    return Schedule(name=name, cron=cron, given={"command": ("true",)} | given, timezone=zone, missed=missed)


def us(text: str) -> int:
    return parse_time(text, now_s=1_790_000_000)


def times(cron: str, start: str, count: int, *, zone: str = BERLIN) -> list[str]:
    """Its next times, as its zone's wall clock shows them."""
    at, found, one = us(start), [], schedule(cron, zone=zone)
    for _ in range(count):
        at = one.next_after(at)
        found.append(datetime.fromtimestamp(at / 1e6, ZoneInfo(zone)).strftime("%d %H:%M%z"))
    return found


def test_a_day_after_day_time_keeps_its_hour_over_both_changes_of_the_clocks() -> None:
    assert times("0 4 * * *", "2026-03-28T00:00Z", 3) == ["28 04:00+0100", "29 04:00+0200", "30 04:00+0200"]
    assert times("0 4 * * *", "2026-10-24T00:00Z", 3) == ["24 04:00+0200", "25 04:00+0100", "26 04:00+0100"]


def test_a_time_that_the_clocks_leave_out_comes_as_much_later_and_once() -> None:
    assert times("30 2 * * *", "2026-03-28T12:00Z", 2) == ["29 03:30+0200", "30 02:30+0200"]
    assert times("30 2,3 * * *", "2026-03-28T12:00Z", 2) == ["29 03:30+0200", "30 02:30+0200"]


def test_a_time_that_the_clocks_repeat_comes_once() -> None:
    assert times("30 2 * * *", "2026-10-24T12:00Z", 2) == ["25 02:30+0200", "26 02:30+0100"]


def test_what_comes_every_hour_comes_in_both_of_the_repeated_ones_and_never_twice_at_once() -> None:
    assert times("30 * * * *", "2026-10-24T23:00Z", 4) == [
        *("25 01:30+0200", "25 02:30+0200", "25 02:30+0100", "25 03:30+0100"),
    ]
    assert times("30 * * * *", "2026-03-29T00:00Z", 3) == ["29 01:30+0100", "29 03:30+0200", "29 04:30+0200"]
    assert times("@hourly", "2026-10-24T23:30Z", 3) == ["25 02:00+0200", "25 02:00+0100", "25 03:00+0100"]


@pytest.mark.parametrize("zone", ["Australia/Lord_Howe", "America/New_York", "Asia/Kathmandu", BERLIN])
def test_every_quarter_of_an_hour_is_a_quarter_apart_all_the_year(zone: str) -> None:
    """Lord Howe's clocks change by half an hour."""
    one = schedule("*/15 * * * *", zone=zone)
    for day in ("2026-03-08", "2026-03-29", "2026-04-04", "2026-10-03", "2026-10-24", "2026-11-01"):
        at = us(f"{day}T00:00Z")
        for _ in range(4 * 40):
            following = one.next_after(at)
            assert following - at == 15 * 60_000_000
            at = following


@settings(max_examples=60)
@given(
    st.sampled_from(
        ["0 3 * * *", "30 2 * * 0", "15 */2 * * *", "*/20 1-3 * * *", "0 0 1 * *", "@weekly", "5 2 29 2 *"]
    ),
    st.sampled_from(["UTC", BERLIN, "America/New_York", "Australia/Lord_Howe"]),
    st.datetimes(datetime(2026, 1, 1), datetime(2028, 1, 1), timezones=st.just(UTC)),
)
def test_the_next_time_is_later_and_the_first(cron: str, zone: str, at: datetime) -> None:
    one, start = schedule(cron, zone=zone), int(at.timestamp() * 1e6)
    following = one.next_after(start)
    assert following > start
    assert one.next_after(following - 1) == following
    assert one.next_after((start + following) // 2) == following


@pytest.mark.parametrize(
    "cron",
    [
        *(
            "",
            "x",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "0 24 * * *",
            "0 0 30 2 *",
            "0 0 31 2,4 *",
            "@reboot",
            "@never",
        ),
        *(
            "H * * * *",
            "R(0-5) * * * *",
            "h(1-3) 0 * * *",
            "*/0 * * * *",
            "5-1-2 * * * *",
            "٠ 3 * * *",
            "0 3 * * * " * 300,
        ),
        *(None, 5, ["0 3 * * *"]),
    ],
)
def test_what_is_no_cron_is_refused(cron: Any) -> None:
    with pytest.raises(InputError, match=r"^cron .* is not a schedule; write it as"):
        check_cron(cron)


@pytest.mark.parametrize("cron", ["0 3 * * *", "*/5 9-17 * * mon-fri", "0 0 1,15 mar,sep *", "0 12 * * thu", "@daily"])
def test_what_a_crontab_says_is_taken(cron: str) -> None:
    check_cron(cron)


@pytest.mark.parametrize(
    "zone", ["", "Nowhere", "../../etc/passwd", "/etc/localtime", "Europe", "x\x00", "Europe/berlin "]
)
def test_an_unknown_zone_is_refused(zone: str) -> None:
    with pytest.raises(InputError, match="is unknown; write it as Europe/Berlin"):
        schedule("0 3 * * *", zone=zone)


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "a:b", "x" * 101])
def test_a_name_that_could_not_be_a_key_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="not allowed as a name"):
        schedule("0 3 * * *", name=name)


def test_a_schedule_comes_back_from_json_as_it_was() -> None:
    one = schedule("0 3 * * *", zone=BERLIN, missed="once", tags=("a",), env={"A": "1"}, container={"mounts": ["d:/d"]})
    assert Schedule.from_json(one.to_json()) == one


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "null", "[]", "{}", '{"given": {}}', '{"given": 5}', "[" * 100_000),
        '{"given": {}, "name": "a", "cron": "0 3 * * *", "colour": "red"}',
        '{"given": {}, "name": "a", "cron": 5}',
        '{"given": {}, "name": 5, "cron": "0 3 * * *"}',
        '{"given": {}, "name": "a", "cron": "0 3 * * *", "timezone": []}',
    ],
)
def test_a_damaged_schedule_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        Schedule.from_json(text)


@pytest.mark.parametrize(
    ("missed", "now", "runs", "following"),
    [
        ("skip", "03:00:00", "03:00", "04:00"),
        ("skip", "03:00:59", "03:00", "04:00"),
        ("skip", "03:01:01", None, "04:00"),
        ("skip", "09:30:00", None, "10:00"),
        ("skip", "09:00:30", "09:00", "10:00"),
        ("once", "03:00:00", "03:00", "04:00"),
        ("once", "09:30:00", "03:00", "10:00"),
    ],
)
def test_what_was_missed_is_skipped_or_makes_one_run(missed: str, now: str, runs: str | None, following: str) -> None:
    one = schedule("0 * * * *", missed=missed)
    at, next_us = occurrence(one, us("2026-07-01T03:00Z"), us(f"2026-07-01T{now}Z"))
    assert at == (None if runs is None else us(f"2026-07-01T{runs}Z"))
    assert next_us == us(f"2026-07-01T{following}Z")


def test_no_minute_is_lost_when_a_pass_comes_just_at_the_next_one() -> None:
    at, following = occurrence(schedule("* * * * *"), us("2026-07-01T03:00Z"), us("2026-07-01T03:01Z"))
    assert (at, following) == (us("2026-07-01T03:00Z"), us("2026-07-01T03:01Z"))


def test_secrets_of_a_schedules_run_are_masked_where_it_is_shown() -> None:
    shown = schedule("0 3 * * *", env={"API_TOKEN": "s3cr3t", "A": "1"}).as_json(None)
    assert shown["run"]["env"] == {"API_TOKEN": "********", "A": "1"}
