"""Keeps a worker from queues whose processes it must not start: it cannot confine them as they ask, or it is root."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from launch_worker.agent.signatures import why_unchecked
from launch_worker.errors import InputError
from launch_worker.queues.confinement import Demands
from launch_worker.queues.read import queue_of
from launch_worker.runners.process.layers import Layers
from launch_worker.store.store import Store

log = logging.getLogger("launch_worker.agent")

#: Why a worker that is root leaves a queue alone.
ROOT = (
    "this worker is root, and so would be its jobs: start it as a user of its own, give the queue an account (--run-as "
    "USER), or set LAUNCH_ALLOW_ROOT=1 (or Celery's C_FORCE_ROOT=1) where the worker is started"
)

#: Seconds that a heartbeat waits for a trial of this machine, which may take longer than a lease.
_PATIENCE_S = 1.0


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
        #: Why this machine cannot do what was asked for, as a clause, by what was; '' where it can.
        self._tried: dict[Demands, str] = {}
        self._trial: _Trial | None = None

    def note_news(self) -> None:
        """Have the next heartbeat look again."""
        self._is_stale = True

    def look(self, queues: Sequence[str]) -> bool:
        """Look what these queues ask for, if that may have changed; returns whether other ones are refused now.

        It never waits long: a queue is refused while it is being tried whether this machine can do what it asks for.
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
        asked = {queue: _demands(config) for queue, config in configs.items()}
        self._try({demands for demands in asked.values() if demands and not self._is_root(demands)})
        before, now = self.refused, {}
        for queue, demands in asked.items():
            why = why_unchecked(configs[queue])
            if demands is not None and not why:
                why = self._why_refused(demands, self._tried.get(demands))
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
        is_asked = bool(demands) and not self._is_root(demands)
        why = self._why_refused(demands, self.layers.why_not(demands) if is_asked else "")
        if why:
            self._is_stale = True
            self._wake()
        return why

    def describe(self) -> list[str]:
        """The layers of confinement that this machine has, as far as a queue has asked for them."""
        return self.layers.describe()

    def _is_root(self, demands: Demands) -> bool:
        """Whether its processes would be root, which nobody has allowed."""
        return not (self._starts_root or demands.run_as)

    def _why_refused(self, demands: Demands, why: str | None) -> str:
        """Why a queue is refused, by why this machine cannot do what it asks for; None while that is being tried."""
        if self._is_root(demands):
            return ROOT
        if not demands:
            return ""
        if why is None:
            return f"it asks for {demands}, and it is still being tried whether this machine can do that"
        return f"it asks for {demands}, and {why}" if why else ""

    def _try(self, asked: set[Demands]) -> None:
        """Try anew what this machine can do. What is not known soon is looked at again at the next heartbeat."""
        if not asked:
            return
        if self._trial is None:
            trial = _Trial(self.layers, asked)
            trial.start()
            self._trial = trial
        self._trial.join(_PATIENCE_S)
        if self._trial.is_alive():
            self._is_stale = True
            return
        self._tried, self._trial = self._trial.answers, None
        if not asked <= self._tried.keys():
            self._is_stale = True


class _Trial(threading.Thread):
    """Tries what this machine can do: bubblewrap may take seconds to fail, and a directory of accounts may be away."""

    def __init__(self, layers: Layers, asked: set[Demands]) -> None:
        super().__init__(name="trial", daemon=True)
        self._layers = layers
        self._asked = asked
        self.answers: dict[Demands, str] = {}

    def run(self) -> None:
        for demands in self._asked:
            try:
                self.answers[demands] = self._layers.why_not(demands)
            except Exception as error:
                log.exception("trial.failed")
                self.answers[demands] = f"it cannot be found out whether this machine can do that: {error}"


def _demands(config: str) -> Demands | None:
    """What a configuration asks for its processes; None for a queue that has none, or that is damaged.

    The runs of a damaged one fail, whoever claims them.
    """
    try:
        queue = queue_of(config)
    except InputError:
        return None
    return None if queue.resource == "container" else queue.demands
