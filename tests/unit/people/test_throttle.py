"""Guessing is slowed down, and nobody else is locked out by it."""

from __future__ import annotations

import pytest

from launch_worker.people.throttle import Throttle, TooManyLoginsError


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def throttle(clock: Clock) -> Throttle:
    return Throttle(clock)


def fail(throttle: Throttle, clock: Clock, name: str, address: str, *, times: int) -> float:
    """Fail again and again, as fast as it goes. Returns the seconds that this took."""
    began = clock.now
    for _ in range(times):
        while True:
            try:
                clock.now += throttle.wait_s(name, address)
                break
            except TooManyLoginsError as error:
                clock.now += error.wait_s
        throttle.failed(name, address)
    return clock.now - began


def taken(throttle: Throttle, name: str, address: str) -> int:
    """The number of logins that are taken at once, before one is refused."""
    for at in range(1000):
        try:
            throttle.wait_s(name, address)
        except TooManyLoginsError:
            return at
    raise AssertionError("none is refused")


def test_who_mistypes_does_not_wait(throttle: Throttle, clock: Clock) -> None:
    assert fail(throttle, clock, "ada", "192.0.2.1", times=5) == 0.0


def test_an_address_that_guesses_has_a_guess_a_minute(throttle: Throttle, clock: Clock) -> None:
    fail(throttle, clock, "ada", "192.0.2.1", times=20)
    assert fail(throttle, clock, "ada", "192.0.2.1", times=20) > 19 * 30.0


def test_it_does_not_help_to_guess_at_many_names(throttle: Throttle, clock: Clock) -> None:
    for at in range(20):
        fail(throttle, clock, f"user{at}", "192.0.2.1", times=1)
    assert taken(throttle, "another", "192.0.2.1") <= 1


def test_it_does_not_help_to_ask_at_once(throttle: Throttle, clock: Clock) -> None:
    fail(throttle, clock, "ada", "192.0.2.1", times=12)
    clock.now += 60
    assert taken(throttle, "ada", "192.0.2.1") <= 2


def test_a_name_that_others_guess_at_is_never_refused_elsewhere(throttle: Throttle, clock: Clock) -> None:
    for at in range(200):
        throttle.wait_s("ada", f"198.51.100.{at}")
        throttle.failed("ada", f"198.51.100.{at}")
    assert throttle.wait_s("ada", "192.0.2.7") == 2.0, "it takes a little longer, and no more than that"


def test_where_a_person_logged_in_before_others_failures_do_not_count(throttle: Throttle, clock: Clock) -> None:
    throttle.wait_s("ada", "192.0.2.1")
    throttle.succeeded("ada", "192.0.2.1")
    fail(throttle, clock, "bob", "192.0.2.1", times=20)
    for at in range(50):
        throttle.failed("ada", f"198.51.100.{at}")
    assert throttle.wait_s("ada", "192.0.2.1") == 0.0


def test_where_a_person_logged_in_before_guessing_at_that_person_is_slow_too(throttle: Throttle, clock: Clock) -> None:
    throttle.succeeded("ada", "192.0.2.1")
    fail(throttle, clock, "ada", "192.0.2.1", times=20)
    assert fail(throttle, clock, "ada", "192.0.2.1", times=5) > 120.0


def test_failures_are_forgotten(throttle: Throttle, clock: Clock) -> None:
    fail(throttle, clock, "ada", "192.0.2.1", times=8)
    clock.now += 3600
    assert throttle.wait_s("ada", "192.0.2.1") == 0.0


def test_a_network_of_ipv6_is_one_address(throttle: Throttle, clock: Clock) -> None:
    for at in range(30):
        fail(throttle, clock, "ada", f"2001:db8::{at:x}", times=1)
    assert taken(throttle, "ada", "2001:db8::ffff") <= 1
    assert throttle.wait_s("bob", "2001:db8:0:1::1") == 0.0


def test_what_is_remembered_is_bounded(throttle: Throttle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch_worker.people.throttle._MOST_KEYS", 10)
    for at in range(100):
        throttle.failed(f"user{at}", f"192.0.2.{at}")
        throttle.succeeded(f"user{at}", f"192.0.2.{at}")
    assert len(throttle._counts) <= 10
    assert len(throttle._known) <= 10
