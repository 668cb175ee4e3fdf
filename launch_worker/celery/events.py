"""Shows runs to those who watch Celery's events (Flower): it follows the records and decides nothing.

A worker's events go through the dispatcher of its consumer, some times a second. What comes while that has no
connection is kept until it has one. Who has no consumer (beat), or tells of another worker's run, sends each by itself,
in the name of the worker that had the run.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from celery.worker.state import SOFTWARE_INFO

from launch_worker.celery.application import app
from launch_worker.model.outcome import Outcome
from launch_worker.model.retry import next_step_of
from launch_worker.model.run import Record
from launch_worker.model.states import RunState

log = logging.getLogger("launch_worker.events")

_EVERY_S = 0.2
_AT_ONCE = 200
_KEPT = 10_000


@contextlib.contextmanager
def event_may_be_lost() -> Iterator[None]:
    """Whatever is wrong with what is only shown."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 (no traceback: kombu's or redis-py's tells nothing more)
        log.warning("event.lost: %r", error)


class Events:
    """This worker's own. Thread-safe."""

    def __init__(self) -> None:
        self._consumer: Any = None
        self._dispatcher: Any = None
        self._is_due = False
        self._kept: deque[tuple[str, dict[str, Any]]] = deque(maxlen=_KEPT)
        self._keeping = threading.Lock()

    def open(self, consumer: Any) -> None:
        """Send through this consumer's dispatcher from now on."""
        dispatcher = consumer.event_dispatcher
        if dispatcher is None:
            return
        dispatcher.buffer_limit = _AT_ONCE
        # What cannot be sent is kept by it, and handed on to the next one.
        dispatcher.buffer_while_offline = True
        dispatcher.on_send_buffered = self._soon
        with self._keeping:
            self._consumer, self._dispatcher = consumer, dispatcher
            kept = list(self._kept)
            self._kept.clear()
        for event, facts in kept:
            self.send(event, **facts)

    def close(self) -> None:
        """The connection ends; what was sent until now goes out, or is kept."""
        with self._keeping:
            dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is not None:
            with event_may_be_lost():
                dispatcher.flush()

    def send(self, event: str, **facts: Any) -> None:
        with event_may_be_lost():
            with self._keeping:
                dispatcher = self._dispatcher
                if dispatcher is None or dispatcher.producer is None:
                    self._kept.append((event, {"timestamp": time.time()} | facts))
                    return
            dispatcher.send(event, **facts)

    def _soon(self) -> None:
        # From any thread; two that come here at once plan two flushes, of which one finds nothing.
        if not self._is_due:
            self._is_due = True
            hub = self._consumer.hub
            hub.call_soon(hub.call_later, _EVERY_S, self._flush)

    def _flush(self) -> None:
        # Before the flush: what is sent meanwhile plans the next one.
        self._is_due = False
        dispatcher = self._dispatcher
        if dispatcher is not None:
            with event_may_be_lost():
                dispatcher.flush()


EVENTS = Events()


def show_end(record: Record, outcome: Outcome) -> None:
    """The end of an attempt that its own worker could not show: that one died, or Redis was away."""
    with event_may_be_lost():
        facts: dict[str, Any] = {}
        if record.running_since is not None:
            facts["runtime"] = max(0.0, time.time() - record.running_since / 1e6)
        goes_on = outcome.state is not RunState.KILLED and next_step_of(record, outcome).retry_delay_s is not None
        event, more = end_event(RunState.PENDING if goes_on else outcome.state, outcome)
        with app.events.default_dispatcher(hostname=record.worker or None) as dispatcher:
            dispatcher.send(event, uuid=record.id, **facts | more)
            if outcome.state is RunState.CRASHED and record.worker:
                # Else it seems to execute the run for ever. One that lives shows itself within seconds.
                dispatcher.send("worker-offline", freq=5, active=0, **SOFTWARE_INFO)


def end_event(state: RunState, outcome: Outcome) -> tuple[str, dict[str, Any]]:
    """The event that tells of an attempt's end, by the state of the record after it."""
    shown = f"{outcome.state}: {outcome.reason}"
    if state is RunState.FINISHED:
        return "task-succeeded", {"result": repr(state.value)}
    if state is RunState.PENDING:
        return "task-retried", {"exception": shown, "traceback": None}
    if state is RunState.KILLED:
        return "task-revoked", {"terminated": True, "signum": outcome.signal or None, "expired": False}
    return "task-failed", {"exception": shown, "traceback": None}
