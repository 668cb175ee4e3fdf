"""What a worker consumes is what its agent says at last, in whatever order Celery's loop does what it was asked."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from launch_worker.agent.launch_agent import LaunchAgent
from launch_worker.celery.application import app
from launch_worker.celery.broker import Channel
from launch_worker.celery.start import Start
from launch_worker.celery.worker import LaunchWorker


def test_a_worker_that_has_room_again_takes_runs_whatever_it_asked_of_the_loop_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = SimpleNamespace(takes_runs=True, direct_queue="direct", queues=["default"])
    monkeypatch.setattr(LaunchAgent, "initialized", lambda: True)
    monkeypatch.setattr(LaunchAgent, "current", lambda: agent)
    monkeypatch.setattr(Channel, "waited", frozenset())
    consumed: dict[str, None] = {}
    monkeypatch.setattr(app, "amqp", SimpleNamespace(queues=SimpleNamespace(consume_from=consumed)))
    asked: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
    worker = LaunchWorker(cast("Start", SimpleNamespace(consumes_runs=True)))
    worker.consumer = SimpleNamespace(
        hub=SimpleNamespace(call_soon=lambda callback, *given: asked.append((callback, given))),
        add_task_queue=lambda name: consumed.setdefault(name),
        cancel_task_queue=lambda name: consumed.pop(name),
        disable_rate_limits=True,
        task_consumer=None,
    )
    for agent.takes_runs in (False, True):
        worker.turn_intake()
    # Kombu's hub keeps them in a set.
    for callback, given in reversed(asked):
        callback(*given)
    assert set(consumed) == {"maintenance", "direct", "default"}
    agent.takes_runs = False
    asked[0][0]()
    assert not consumed
