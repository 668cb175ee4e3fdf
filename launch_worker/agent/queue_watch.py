"""Keeps the set of consumed queues equal to the worker's selection as queues come and go."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from launch_worker.agent.outage import Outage
from launch_worker.agent.selection import Selection
from launch_worker.api.client import Api
from launch_worker.errors import BrokerUnavailableError, LaunchError

log = logging.getLogger("launch_worker.pickup")

#: Prefect's service loop: each pause is longer or shorter by so much, and grows to about a minute while it fails.
JITTER = 0.3
BACKOFF_CAP_S = 60.0
#: The news of a new queue are heard at once, but a publication may be lost.
LOOK_S = 2.0


def pause_s(failures: int, *, every_s: float = LOOK_S) -> float:
    """How long a service loop waits after so many failures in a row."""
    return random.uniform(1 - JITTER, 1 + JITTER) * min(every_s * 2.0 ** min(failures, 20), BACKOFF_CAP_S)


class Consumer(Protocol):
    """The agent whose queues are kept, as far as that takes it."""

    api: Api
    outage: Outage

    @property
    def queues(self) -> Sequence[str]: ...

    def set_queues(self, queues: Sequence[str]) -> None: ...


class QueueWatch:
    """Keeps the agent's queues equal to what is wanted, in a thread of its own.

    `on_change` is called in that thread after the agent was given other queues.
    """

    def __init__(
        self,
        agent: Consumer,
        selection: Selection,
        *,
        excluded: Collection[str] = (),
        on_change: Callable[[], None],
    ) -> None:
        self._agent = agent
        self._selection = selection
        self._excluded = excluded
        self._on_change = on_change
        #: What `celery control add_consumer` and `cancel_consumer` asked for.
        self._added: list[str] = []
        self._dropped: set[str] = set()
        self._thread: threading.Thread | None = None
        self._woken = threading.Event()
        self._stopping = threading.Event()

    def start(self) -> None:
        if self._selection.is_dynamic or self._selection.tag_queue:
            self._start()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="launch-queues", daemon=True)
        self._thread.start()

    def add(self, queue: str) -> None:
        """Consume this queue too, whatever is selected."""
        self._dropped.discard(queue)
        self._added.append(queue)
        self._look_soon()

    def drop(self, queue: str) -> None:
        """Do not consume this queue, whatever is selected."""
        self._dropped.add(queue)
        self._look_soon()

    def _look_soon(self) -> None:
        self.wake()
        # With fixed names there was nothing to look for until now.
        if self._thread is None or not self._thread.is_alive():
            self._start()

    def stop(self) -> None:
        self._stopping.set()
        self._woken.set()

    def wake(self) -> None:
        """Look again soon; from any thread."""
        self._woken.set()

    def look(self) -> None:
        """Look once. Raises LaunchError when Redis cannot say which queues there are."""
        store, selection = self._agent.api.store, self._selection
        if selection.tag_queue:
            store.configure("queue", selection.tag_queue, {}, create=True)
        pool_queues = [name for name, _ in store.pool_queues(selection.pool)] if selection.pool else []
        all_queues = store.queue_names() if selection.prefixes and not selection.pool else []
        found = [name for name in selection.wanted(all_queues, pool_queues) if name not in self._excluded]
        wanted = [name for name in dict.fromkeys([*found, *self._added]) if name not in self._dropped]
        before = self._agent.queues
        if wanted == before:
            return
        self._agent.set_queues(wanted)
        for name in wanted:
            if name not in before:
                log.info("queue.taken_up queue=%s", name)
        for name in before:
            if name not in wanted:
                log.info("queue.dropped queue=%s", name)
        self._on_change()

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            self._woken.clear()
            try:
                self.look()
                failures = 0
                if not self._selection.is_dynamic:
                    return
            except BrokerUnavailableError as error:
                # Its news may be lost meanwhile: look as soon as Redis is back.
                self._agent.outage.note(error)
                while not self._agent.outage.wait(timeout_s=LOOK_S) and not self._stopping.is_set():
                    pass
                self._stopping.wait(random.uniform(0.05, 0.2))
                continue
            except LaunchError as error:
                if not failures:
                    log.warning("queues.unknown: those that are consumed stay as they are. %s", error)
                failures += 1
            self._woken.wait(pause_s(failures))
            if self._woken.is_set():
                # Many queues may be made at once.
                self._stopping.wait(0.1)
