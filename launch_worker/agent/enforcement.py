"""Keeps a worker from queues whose processes it must not start: it cannot confine them as they ask, or it is root."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache

from launch_worker.agent.signatures import why_unchecked
from launch_worker.errors import InputError
from launch_worker.queues.confinement import Demands
from launch_worker.queues.queue import QueueConfig
from launch_worker.runners.process.layers import Layers
from launch_worker.store.store import Store

log = logging.getLogger("launch_worker.agent")

#: Why a worker that is root leaves a queue alone.
ROOT = (
    "this worker is root, and so would be its jobs: start it as a user of its own, give the queue an account (--run-as "
    "USER), or set LAUNCH_ALLOW_ROOT=1 (or Celery's C_FORCE_ROOT=1) where the worker is started"
)


class Enforcement:
    """Which queues a worker leaves alone for what they ask of it. Thread-safe.

    It reads what the queues ask at the worker's start and after each news of them. A claim may come between a change
    and its news: so it is asked once more for each run, by what the claim has brought.
    """

    def __init__(self, *, store: Store, layers: Layers, wake: Callable[[], None], starts_root: bool) -> None:
        """`wake` has the next heartbeat, which looks, at once; `starts_root`: a process may be root."""
        self._store = store
        self._starts_root = starts_root
        self.layers = layers
        self._wake = wake
        #: Reason for each queue that is left alone, by its name.
        self.refused: dict[str, str] = {}
        self._is_stale = True

    def note_news(self) -> None:
        """Have the next heartbeat look again."""
        self._is_stale = True

    def look(self, queues: Sequence[str]) -> bool:
        """Look what these queues ask for, if that may have changed; returns whether other ones are refused now.

        Raises BrokerUnavailableError.
        """
        if not self._is_stale:
            return False
        self._is_stale = False
        try:
            configs = self._store.queue_configs(queues)
        except BaseException:
            self._is_stale = True
            raise
        before, now = self.refused, {}
        for queue, config in configs.items():
            demands = _demands(config)
            why = why_unchecked(config) or (self._why_not(demands) if demands is not None else "")
            if why:
                now[queue] = why
        for queue, why in now.items():
            if before.get(queue) != why:
                log.warning("queue.refused queue=%s: no run of it is taken, for %s", queue, why)
        for queue in before:
            if queue not in now:
                log.info("queue.admitted queue=%s", queue)
        self.refused = now
        return set(before) != set(now)

    def why_not(self, queue: str, demands: Demands) -> str:
        """Why a claimed run of this queue must not be executed here; '' where it may. The queue is left alone then."""
        why = self._why_not(demands)
        if why:
            self._is_stale = True
            self._wake()
        return why

    def describe(self) -> list[str]:
        """The layers of confinement that this machine has, as far as a queue has asked for them."""
        return self.layers.describe()

    def _why_not(self, demands: Demands) -> str:
        if not (self._starts_root or demands.run_as):
            return ROOT
        why = self.layers.why_not(demands) if demands else ""
        return f"it asks for {demands}, and {why}" if why else ""


@lru_cache(maxsize=256)
def _demands(config: str) -> Demands | None:
    """What a configuration asks for its processes; None for a queue that has none, or that is damaged.

    The runs of a damaged one fail, whoever claims them.
    """
    try:
        queue = QueueConfig.from_json(config)
    except InputError:
        return None
    return None if queue.resource == "container" else queue.demands
