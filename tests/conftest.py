"""Fixtures that all tests share: a real Redis server for a session, an empty store for each test; and `wait_until`."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import hypothesis
import pytest

from launch_worker.api.client import Api
from launch_worker.dev.redis_server import RedisServer
from launch_worker.runners.process.own_process import have_usual_signals
from launch_worker.settings import Settings
from launch_worker.store.store import Store
from tests.support import logins
from tests.support.disks import disk
from tests.support.engine import busybox_image, engine
from tests.support.redis_client import redis_of

__all__ = ["busybox_image", "disk", "engine", "wait_until"]

T = TypeVar("T")

#: Tests on the main path at most: they are run again on each further server and variant.
MAIN_PATH_TESTS = 40

# The time of one example depends on what else the machine does, so no example has a deadline. The rest is as Hypothesis
# has it: examples are not random where CI is set.
hypothesis.settings.register_profile("no deadline", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("no deadline")
if os.environ.get("FUZZ"):
    # `make fuzz`: other examples at each call, also where CI is set.
    hypothesis.settings.register_profile(
        "fuzz", hypothesis.settings(), max_examples=int(os.environ["FUZZ"]), derandomize=False, database=None
    )
    hypothesis.settings.load_profile("fuzz")


def pytest_configure() -> None:
    # A shell starts background commands with SIGINT and SIGQUIT ignored, and processes that tests start would inherit
    # that.
    have_usual_signals(but_hang_up=True)
    # Tests may be root's, and so are the jobs of their workers.
    os.environ["LAUNCH_ALLOW_ROOT"] = "1"
    if logins.OF_ALL:
        logins.have_servers_know_the_users()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = sum(item.get_closest_marker("main_path") is not None for item in items)
    if marked > MAIN_PATH_TESTS:
        raise pytest.UsageError(f"{marked} tests are marked main_path, and may be {MAIN_PATH_TESTS}; take some off")
    # The longest tests begin first: one that began last would leave the other test processes with nothing to do.
    items.sort(key=_timeout_s, reverse=True)


def _timeout_s(item: pytest.Item) -> float:
    """The timeout that a test has of its own, in seconds; 0 for the usual one."""
    mark = item.get_closest_marker("timeout")
    return float(mark.args[0]) if mark is not None else 0.0


@pytest.fixture(scope="session", autouse=True)
def _usual_hang_up() -> None:
    """SIGHUP ends the processes that tests start, also below `nohup`; it does not end the test run.

    A program that is executed inherits SIG_IGN, but not a handler: there the default is back. The handler is set in
    the processes that execute tests only; xdist starts them from a process that ignores SIGHUP still.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A private real Redis server, one for each process of the test run."""
    server = RedisServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of the Redis server, after everything in it was deleted."""
    redis_of(redis_server.url).flushall()
    return redis_server.url


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    made = Store(redis_url)
    yield made
    made.close()


@pytest.fixture
def redis_client(redis_url: str) -> Any:
    """A plain client of the store's Redis, for what is looked up, damaged or forged behind the store's back."""
    return redis_of(redis_url)


@pytest.fixture
def api(redis_url: str) -> Iterator[Api]:
    made = Api(settings=Settings.from_env({}, redis_url=redis_url))
    yield made
    made.store.close()


@pytest.fixture
def door(request: pytest.FixtureRequest) -> str:
    """The way of commands to the launch system, for `cluster`, which tests of several folders use."""
    return str(getattr(request, "param", "redis"))


def wait_until(condition: Callable[[], T | None], *, timeout_s: float = 20.0, what: str = "") -> T:
    """Poll until the condition's value is true, and return it; fails with `what` after the timeout."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"not so after {timeout_s:g} s: {what or condition}")
        time.sleep(0.02)
