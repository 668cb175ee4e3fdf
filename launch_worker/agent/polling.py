"""Polls the queues of an agent without Celery until it is asked to stop."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from launch_worker.agent.config import AgentConfig
from launch_worker.agent.outage import Outage
from launch_worker.agent.queue_watch import QueueWatch
from launch_worker.agent.selection import Selection
from launch_worker.agent.tracker import JobSpecAndQueue
from launch_worker.errors import BrokerUnavailableError

if TYPE_CHECKING:
    from launch_worker.api.client import Api

log = logging.getLogger("launch_worker.agent")

#: Seconds that the loop waits after it found nothing.
_POLL_S = 0.2


class Agent(Protocol):
    """What the loop does with its agent."""

    api: Api
    outage: Outage
    is_started: bool

    @property
    def selected_queues(self) -> Sequence[str]: ...

    def set_queues(self, queues: Sequence[str]) -> None: ...

    def get_job_and_queue(self) -> JobSpecAndQueue | None: ...

    def run_job(self, job: Mapping[str, Any], queue: str) -> None: ...

    def fail_run_queue_item(self, run_queue_item_id: str, message: str, phase: str) -> None: ...

    def print_status(self) -> None: ...

    def drain(self, *, timeout_s: float | None = None) -> bool: ...

    def detach(self) -> None: ...

    def stop(self) -> None: ...


class Polling:
    """Takes and runs items of an agent until `stop` was called."""

    def __init__(self, agent: Agent, config: AgentConfig, *, news: threading.Event) -> None:
        """`news` is set when an item has ended: the loop looks again at once."""
        self._agent = agent
        self._config = config
        self._news = news
        self._asked_to_stop = threading.Event()

    def stop(self) -> None:
        """Ask the loop to stop; from any thread."""
        self._asked_to_stop.set()
        self._news.set()

    def run(self) -> None:
        """Poll until it is asked to stop, then drain or detach the agent, and stop it.

        Raises KeyboardInterrupt after all of that.
        """
        with _sigterm_as_interrupt():
            try:
                self._agent.print_status()
                with self._watching_queues():
                    while True:
                        self._turn()
            except KeyboardInterrupt:
                self._leave()
                raise
            finally:
                if self._agent.is_started:
                    self._agent.stop()

    def _turn(self) -> None:
        if self._asked_to_stop.is_set():
            raise KeyboardInterrupt("the agent was asked to stop")
        try:
            found = self._agent.outage.repeat(self._agent.get_job_and_queue, until=self._asked_to_stop.is_set)
        except BrokerUnavailableError:
            return  # it was asked to stop
        if found is None:
            self._news.wait(_POLL_S)
            self._news.clear()
            return
        item = found.job["runQueueItemId"]
        try:
            self._agent.run_job(found.job, found.queue)
        except Exception as error:
            log.exception("run.failed run=%s phase=agent", item)
            self._agent.fail_run_queue_item(item, f"{type(error).__name__} in the worker: {error}", "agent")

    def _leave(self) -> None:
        try:
            if self._config.detach_on_exit:
                self._agent.detach()
            elif not self._agent.drain(timeout_s=self._config.drain_timeout):
                log.warning("worker.drain_timeout: what still runs is ended")
        except KeyboardInterrupt:
            log.warning("worker.stopping: what still runs is ended")

    @contextlib.contextmanager
    def _watching_queues(self) -> Iterator[None]:
        """Takes up queues that appear, where the agent has a selection and not names."""
        config = self._config
        if not (config.match or config.pool or config.tags):
            yield
            return
        selection = Selection.parse(queues=config.queues or (), match=config.match, pool=config.pool, tags=config.tags)
        watch = QueueWatch(self._agent, selection, on_change=self._news.set)
        watch.start()
        try:
            yield
        finally:
            watch.stop()


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt("SIGTERM")

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
