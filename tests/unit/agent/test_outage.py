"""What is said of outages."""

from __future__ import annotations

import logging
import threading

import pytest

from launch_worker.agent.outage import Outage
from launch_worker.errors import BrokerUnavailableError, RedisFullError


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic time, to be set."""
    time = [1000.0]
    monkeypatch.setattr("launch_worker.agent.outage.time.monotonic", lambda: time[0])
    return time


def words(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage().split()[0] for record in caplog.records]


AWAY = BrokerUnavailableError("it is away")


def test_an_outage_is_said_once_every_30_s_and_when_it_is_over(
    now: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    outage = Outage(threading.Event())
    for _ in range(70):
        outage.note(AWAY)
        now[0] += 1
    outage.over()
    assert words(caplog) == ["redis.away"] * 3 + ["redis.back"]


def test_of_a_connection_that_is_lost_again_and_again_a_few_outages_are_said_and_those_that_last(
    now: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    outage = Outage(threading.Event())
    for _ in range(20):
        outage.note(AWAY)
        now[0] += 0.3
        outage.over()
        now[0] += 0.3
    assert words(caplog) == ["redis.away", "redis.back"] * 4
    caplog.clear()
    for _ in range(4):
        outage.note(AWAY)
        now[0] += 0.5
    outage.over()
    assert words(caplog) == ["redis.away", "redis.back"]
    caplog.clear()
    now[0] += 30
    outage.note(AWAY)
    outage.over()
    assert words(caplog) == ["redis.away", "redis.back"]


def test_a_redis_that_is_full_is_not_away(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    outage = Outage(threading.Event())
    for _ in range(40):
        outage.note(RedisFullError("it is full"))
    assert not outage.is_on
    assert words(caplog) == ["redis.full:"]
