"""Shows runs to those who watch Celery's events (Flower): it follows the records and decides nothing.

A worker's events go through the dispatcher of its consumer, some times a second. Events that come while that has no
connection are kept until it has one. An event of beat, which has no consumer, or of another worker's run is sent by
itself, in the name of the worker that had the run.
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

#: Seconds between two flushes of events.
_EVERY_S = 0.2
#: Number of events in one flush, and number that is kept without a connection, at most.
_AT_ONCE = 200
_KEPT = 10_000


@contextlib.contextmanager
def event_may_be_lost() -> Iterator[None]:
    """Log any error of what is only shown."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 (no traceback: kombu's or redis-py's tells nothing more)
        log.warning("event.lost: %r", error)


class Events:
    """The events of this worker. Thread-safe."""

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
        # The dispatcher keeps what cannot be sent, and hands it on to the next one.
        dispatcher.buffer_while_offline = True
        dispatcher.on_send_buffered = self._soon
        with self._keeping:
            self._consumer, self._dispatcher = consumer, dispatcher
            kept = list(self._kept)
            self._kept.clear()
        for event, facts in kept:
            self.send(event, **facts)

    def close(self) -> None:
        """Send what is left, or keep it: the connection ends."""
        with self._keeping:
            dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is not None:
            with event_may_be_lost():
                dispatcher.flush()

    def send(self, event: str, **facts: Any) -> None:
        """Send an event soon, or keep it while there is no connection."""
        with event_may_be_lost():
            with self._keeping:
                dispatcher = self._dispatcher
                if dispatcher is None or dispatcher.producer is None:
                    self._kept.append((event, {"timestamp": time.time()} | facts))
                    return
            dispatcher.send(event, **facts)

    def _soon(self) -> None:
        # From any thread; two threads at once plan two flushes, of which one finds nothing.
        if not self._is_due:
            self._is_due = True
            hub = self._consumer.hub
            hub.call_soon(hub.call_later, _EVERY_S, self._flush)

    def _flush(self) -> None:
        # Before the flush: an event that is sent meanwhile plans the next flush.
        self._is_due = False
        dispatcher = self._dispatcher
        if dispatcher is not None:
            with event_may_be_lost():
                dispatcher.flush()


EVENTS = Events()


def show_end(record: Record, outcome: Outcome) -> None:
    """Show the end of an attempt whose own worker could not show it: that worker died, or Redis was away."""
    with event_may_be_lost():
        facts: dict[str, Any] = {}
        if record.running_since is not None:
            facts["runtime"] = max(0.0, time.time() - record.running_since / 1e6)
        goes_on = outcome.state is not RunState.KILLED and next_step_of(record, outcome).retry_delay_s is not None
        event, more = end_event(RunState.PENDING if goes_on else outcome.state, outcome)
        with app.events.default_dispatcher(hostname=record.worker or None) as dispatcher:
            dispatcher.send(event, uuid=record.id, **facts | more)
            if outcome.state is RunState.CRASHED and record.worker:
                # Without it the worker seems to execute the run for ever. A living one shows itself within seconds.
                dispatcher.send("worker-offline", freq=5, active=0, **SOFTWARE_INFO)


def end_event(state: RunState, outcome: Outcome) -> tuple[str, dict[str, Any]]:
    """The event of an attempt's end, by the state of the record after it."""
    shown = f"{outcome.state}: {outcome.reason}"
    if state is RunState.FINISHED:
        return "task-succeeded", {"result": repr(state.value)}
    if state is RunState.PENDING:
        return "task-retried", {"exception": shown, "traceback": None}
    if state is RunState.KILLED:
        return "task-revoked", {"terminated": True, "signum": outcome.signal or None, "expired": False}
    return "task-failed", {"exception": shown, "traceback": None}
