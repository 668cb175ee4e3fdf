"""A due time is told to all workers, and only those that would be late for it ask at once."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from launch_worker.agent.heartbeat import Liveness
from launch_worker.agent.outage import Outage
from launch_worker.model.worker import FreeCapacity
from launch_worker.settings import Settings
from launch_worker.store import keys
from launch_worker.store.store import Store
from launch_worker.store.workers import Pulse


class Idle:
    """A worker that does nothing."""

    prefetch_s = 0.0

    def card(self) -> FreeCapacity:
        left = {"slots": 1, "gpus": 0, "cpus": 1, "memory": 1}
        return FreeCapacity("w", ("default",), **left, total=(0, 1, 1), backfill_s=1, prefetch_s=self.prefetch_s)

    def why_no_runs(self) -> str:
        return ""


@pytest.fixture
def worker() -> Idle:
    return Idle()


@pytest.fixture
def liveness(store: Store, worker: Idle) -> Liveness:
    """It asks every 10 seconds."""
    settings = Settings.from_env({"LAUNCH_HEARTBEAT_S": "10"}, redis_url=store.url)
    made: Any = worker
    stopping = threading.Event()
    return Liveness(
        made,
        owner="w",
        store=store,
        settings=settings,
        outage=Outage(stopping),
        stopping=stopping,
        on_end=lambda *_: None,
    )


def ask(liveness: Liveness, store: Store, next_due: int = 0) -> None:
    liveness._publish_due(Pulse([], pass_age_s=0.0, next_due=next_due, now=store.now_us()))


def wakes(liveness: Liveness, message: object) -> bool:
    liveness._wake.clear()
    liveness._hear(keys.DUE, str(message))
    return liveness._wake.is_set()


@pytest.mark.parametrize(
    ("after_s", "is_woken"), [(-1, True), (0, True), (5, True), (9, True), (11, False), (3600, False)]
)
def test_a_worker_asks_at_once_for_what_is_due_before_it_would_ask_anyway(
    store: Store, liveness: Liveness, after_s: float, is_woken: bool
) -> None:
    ask(liveness, store)
    assert wakes(liveness, int(store.now_us() + 1e6 * after_s)) is is_woken


def test_a_worker_that_wakes_for_a_run_need_not_be_woken_for_a_later_one(store: Store, liveness: Liveness) -> None:
    due = int(store.now_us() + 3e6)
    ask(liveness, store, due)
    assert not wakes(liveness, due)
    assert not wakes(liveness, due + 1_000_000)
    assert wakes(liveness, due - 1_000_000)


def test_what_is_to_be_prepared_ahead_is_asked_for_so_much_earlier(
    store: Store, liveness: Liveness, worker: Idle
) -> None:
    worker.prefetch_s = 60.0
    ask(liveness, store)
    now = store.now_us()
    assert wakes(liveness, now + 65_000_000)
    assert not wakes(liveness, now + 75_000_000)


def test_a_worker_that_is_asking_asks_again(store: Store, liveness: Liveness) -> None:
    """The answer that is on its way may not know of it."""
    assert wakes(liveness, store.now_us() + 3_600_000_000)


@pytest.mark.parametrize("message", ["", "soon", "-1", "1.5"])
def test_what_says_no_time_wakes(store: Store, liveness: Liveness, message: str) -> None:
    ask(liveness, store)
    assert wakes(liveness, message)
