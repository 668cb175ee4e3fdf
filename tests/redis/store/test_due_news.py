"""A due time is told to all workers, and only those that would be late for it ask at once."""

from __future__ import annotations

import threading

import pytest

from launch_worker.agent.attempts import Attempts
from launch_worker.agent.capacity import Capacity
from launch_worker.agent.heartbeat import Heartbeat
from launch_worker.agent.outage import Outage
from launch_worker.agent.probes import Vitals
from launch_worker.agent.worker_metrics import WorkerMetrics
from launch_worker.model.worker import FreeCapacity
from launch_worker.settings import Settings
from launch_worker.store import keys
from launch_worker.store.store import Store
from launch_worker.store.workers import Pulse


class Idle:
    """A worker that does nothing."""

    prefetch_s = 0.0

    def free_capacity(self) -> FreeCapacity:
        total = (0, 1, 1)
        return FreeCapacity("w", ("default",), 1, *total, total=total, backfill_s=1, prefetch_s=self.prefetch_s)

    def renew(self) -> Pulse:
        return Pulse([], pass_age_s=0.0, next_due=0, now=0)


@pytest.fixture
def worker() -> Idle:
    return Idle()


@pytest.fixture
def heartbeat(store: Store, worker: Idle) -> Heartbeat:
    """It asks every 10 seconds."""
    settings = Settings.from_env({"LAUNCH_HEARTBEAT_S": "10"}, redis_url=store.url)
    stopping = threading.Event()
    outage = Outage(stopping)
    vitals = Vitals(heartbeat_s=10, file=None, is_away=lambda: False, why_no_runs=lambda: "")
    capacity = Capacity((), cpus=1, memory=1)
    return Heartbeat(
        owner="w",
        store=store,
        settings=settings,
        outage=outage,
        stopping=stopping,
        wake=threading.Event(),
        vitals=vitals,
        metrics=WorkerMetrics(
            settings=settings,
            slots=1,
            vitals=vitals,
            outage=outage,
            attempts=Attempts(slots=1, capacity=capacity, most_grace_s=1.0),
            capacity=capacity,
        ),
        renew=worker.renew,
        free_capacity=worker.free_capacity,
        on_order=lambda _: None,
        on_queue=lambda _: None,
        on_end=lambda *_: None,
    )


def ask(heartbeat: Heartbeat, store: Store, next_due: int = 0) -> None:
    heartbeat._publish_due(Pulse([], pass_age_s=0.0, next_due=next_due, now=store.now_us()))


def wakes(heartbeat: Heartbeat, message: object) -> bool:
    heartbeat._wake.clear()
    heartbeat._on_message(keys.DUE, str(message))
    return heartbeat._wake.is_set()


@pytest.mark.parametrize(
    ("after_s", "is_woken"), [(-1, True), (0, True), (5, True), (9, True), (11, False), (3600, False)]
)
def test_a_worker_asks_at_once_for_what_is_due_before_it_would_ask_anyway(
    store: Store, heartbeat: Heartbeat, after_s: float, is_woken: bool
) -> None:
    ask(heartbeat, store)
    assert wakes(heartbeat, int(store.now_us() + 1e6 * after_s)) is is_woken


def test_a_worker_that_wakes_for_a_run_need_not_be_woken_for_a_later_one(store: Store, heartbeat: Heartbeat) -> None:
    due = int(store.now_us() + 3e6)
    ask(heartbeat, store, due)
    assert not wakes(heartbeat, due)
    assert not wakes(heartbeat, due + 1_000_000)
    assert wakes(heartbeat, due - 1_000_000)


def test_what_is_to_be_prepared_ahead_is_asked_for_so_much_earlier(
    store: Store, heartbeat: Heartbeat, worker: Idle
) -> None:
    worker.prefetch_s = 60.0
    ask(heartbeat, store)
    now = store.now_us()
    assert wakes(heartbeat, now + 65_000_000)
    assert not wakes(heartbeat, now + 75_000_000)


def test_a_worker_that_is_asking_asks_again(store: Store, heartbeat: Heartbeat) -> None:
    """The answer that is on its way may not know of it."""
    assert wakes(heartbeat, store.now_us() + 3_600_000_000)


@pytest.mark.parametrize("message", ["", "soon", "-1", "1.5"])
def test_what_says_no_time_wakes(store: Store, heartbeat: Heartbeat, message: str) -> None:
    ask(heartbeat, store)
    assert wakes(heartbeat, message)
