"""Keeps the set of consumed queues equal to the worker's selection as queues come and go."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from launch_worker.agent.outage import Outage, backoff_s
from launch_worker.agent.selection import Selection
from launch_worker.api.client import Api
from launch_worker.errors import BrokerUnavailableError, LaunchError

log = logging.getLogger("launch_worker.pickup")

#: Seconds between two looks; news of queues come at once, but a publication may be lost.
LOOK_S = 2.0
#: Seconds between two looks that failed, at most.
_FAILED_CAP_S = 60.0


class Consumer(Protocol):
    """What the watch needs of its agent."""

    api: Api
    outage: Outage

    @property
    def selected_queues(self) -> Sequence[str]: ...

    def set_queues(self, queues: Sequence[str]) -> None: ...


class QueueWatch:
    """Keeps the agent's queues equal to its selection, in a thread of its own.

    `on_change` is called in that thread after the agent's queues have changed.
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
        #: Queues of `celery control add_consumer`.
        self._added: list[str] = []
        #: Queues of `celery control cancel_consumer`.
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
        # A fixed selection has no thread, or one that has ended.
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
        before = self._agent.selected_queues
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
                # News may be lost in an outage: it looks as soon as Redis is back.
                self._agent.outage.repeat(self.look, until=self._stopping.is_set)
                failures = 0
                if not self._selection.is_dynamic:
                    return
            except BrokerUnavailableError:
                return  # it stops
            except LaunchError as error:
                if not failures:
                    log.warning("queues.unknown: those that are consumed stay as they are. %s", error)
                failures += 1
            self._woken.wait(backoff_s(failures, first_s=LOOK_S, cap_s=_FAILED_CAP_S))
            if self._woken.is_set():
                # Many queues may be made at once.
                self._stopping.wait(0.1)
