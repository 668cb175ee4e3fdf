"""Holds what the options, bootsteps, requests and remote control of one launch worker share."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from typing import Any

from celery.worker import state as worker_state

from launch_worker.agent.launch_agent import LaunchAgent
from launch_worker.agent.queue_watch import QueueWatch
from launch_worker.agent.run_once import run_once
from launch_worker.celery.application import app
from launch_worker.celery.broker import Channel
from launch_worker.celery.events import show_end
from launch_worker.celery.loop import LoopWaker
from launch_worker.celery.message import RUN_TASK
from launch_worker.celery.start import Start
from launch_worker.model.checks import MAINTENANCE_QUEUE

log = logging.getLogger("launch_worker.worker")


class LaunchWorker:
    """What a worker takes from its queues, and how it leaves. A Celery worker has one, as its `launch_worker`.

    First SIGTERM or Ctrl-C: take nothing new, let jobs end (with --detach-on-exit: leave them to the next worker, as
    SIGUSR1 does always). A second one, or SIGQUIT: end the jobs. Celery's own warm shutdown blocks the event loop, so
    that `inspect` and `control` go dead for as long as a job runs; its cold one leaves the jobs as orphans of a threads
    pool.
    """

    def __init__(self, start: Start) -> None:
        self.start = start
        #: Number of runs at once: `--limit`, or Celery's `-c`.
        self.slots = 1
        #: Number of tasks that Celery takes at once: the slots, and the schedulers that run.
        self.most_at_once = 1
        #: Begins, renews or ends the wait for the queues' lists; set once there is an agent.
        self.look_at_lists: Callable[[], None] = lambda: None
        #: Queues of runs at the start; queues that are looked for come later.
        self.queues: list[str] = []
        self.waker = LoopWaker()
        #: Celery's consumer; None before the first connection.
        self.consumer: Any = None
        #: None before the agent has started.
        self.queue_watch: QueueWatch | None = None
        #: Why the worker leaves, where that was no signal; a phrase for people.
        self.reason = ""
        self._leaving: threading.Thread | None = None
        self._has_passed = False
        #: Number of the run that a slot took last, by queue.
        self._turns: dict[str, int] = {}
        self._numbers = itertools.count(1)

    # -- what is taken ---------------------------------------------------------------------------------------------

    def turn_intake(self) -> None:
        """Consume the worker's queues, or leave them alone, as the agent says when the loop comes to it; any thread.

        With no consumer (Redis is away) nothing is done: the next one begins with what the agent says.
        """
        if self.consumer is not None:
            # The hub keeps what it was asked in no order.
            self.consumer.hub.call_soon(self._turn_intake)

    def _turn_intake(self) -> None:
        # The hub may have been asked while a worker stops.
        if not LaunchAgent.initialized():
            return
        agent = LaunchAgent.current()
        wanted = []
        if agent.takes_runs and not self.is_leaving:
            by_celery = [agent.direct_queue, *agent.queues] if self.start.consumes_runs else []
            wanted = [MAINTENANCE_QUEUE, *by_celery]
        consumed = list(app.amqp.queues.consume_from)
        for name in consumed:
            if name not in wanted:
                self.consumer.cancel_task_queue(name)
        for name in wanted:
            if name not in consumed:
                self.consumer.add_task_queue(name)
        self.share_queues()
        self.look_at_lists()

    def share_queues(self) -> None:
        """Tell kombu for which of the consumed queues this worker waits itself."""
        waited = frozenset(app.amqp.queues.consume_from) if self.waits_itself else frozenset()
        if waited != Channel.waited:
            Channel.waited = waited
            if self.consumer.task_consumer is not None:
                self.consumer.task_consumer.channel.note_waited()

    @property
    def is_rate_limited(self) -> bool:
        """Whether `celery control rate_limit` holds for runs."""
        return not self.consumer.disable_rate_limits and self.consumer.task_buckets[RUN_TASK] is not None

    @property
    def waits_itself(self) -> bool:
        """Whether free slots wait for the queues' lists, and not Celery's loop, which alone knows of rate limits."""
        return self.start.consumes_runs and self.consumer is not None and not self.is_rate_limited

    @property
    def has_free_slot(self) -> bool:
        """Whether one more run may be taken."""
        return len(worker_state.reserved_requests) < self.most_at_once and LaunchAgent.current().has_free_slot

    def look_for_queues(self) -> None:
        """Look for queues soon: one was made, changed or deleted."""
        if self.queue_watch is not None:
            self.queue_watch.wake()

    def open_queues(self) -> list[str]:
        """The queues that a free slot may claim from directly, in their order; none where only Celery's loop may."""
        if not self.start.consumes_runs or self.is_leaving or not LaunchAgent.initialized():
            return []
        consumed = app.amqp.queues.consume_from
        queues = [name for name in LaunchAgent.current().queues if name in consumed]
        if not self.start.is_strict_order:
            # They take turns, as kombu lets them.
            queues.sort(key=lambda queue: self._turns.get(queue, 0))
        return queues

    def note_turn(self, queue: str) -> None:
        """Note that a slot has taken a run of this queue."""
        self._turns[queue] = next(self._numbers)

    def pass_once(self) -> None:
        """Run what is due, once, then leave; in a thread of its own."""
        if self.start.run_once and not self._has_passed:
            self._has_passed = True
            threading.Thread(target=self._pass, name="launch-once", daemon=True).start()

    def _pass(self) -> None:
        assert self.queue_watch is not None
        run_once(
            LaunchAgent.current(),
            look=self.queue_watch.look,
            slots=self.slots,
            strict_order=self.start.is_strict_order,
            on_end=show_end,
        )
        if not self.is_leaving:
            self._leave(self._drain)

    # -- how it leaves ---------------------------------------------------------------------------------------------

    @property
    def is_leaving(self) -> bool:
        """Whether the worker drains, or leaves its jobs to the next one."""
        return self._leaving is not None

    def on_signal(self, *_: Any) -> None:
        """SIGTERM and SIGINT."""
        if self.is_leaving:
            self.on_quit()
            return
        self._leave(self._detach if self.start.config.detach_on_exit else self._drain)

    def on_quit(self, *_: Any) -> None:
        """SIGQUIT."""
        if LaunchAgent.initialized():
            LaunchAgent.current().hurry()
        _stop_now()

    def on_upgrade(self, *_: Any) -> None:
        """SIGUSR1."""
        if not self.is_leaving:
            self._leave(self._detach)

    def drain(self, reason: str) -> None:
        """Drain; jobs that are ended after the drain's time have this reason."""
        self.reason = reason
        self._leave(self._drain)

    def _leave(self, how: Callable[[], None]) -> None:
        # In a thread: while Redis is away there is no loop that could wait for the jobs.
        self._leaving = threading.Thread(target=how, name="launch-drain", daemon=True)
        self._leaving.start()

    def _detach(self) -> None:
        log.warning("worker.detaching: no new runs are taken; those that run are left to the next worker of this name")
        self.turn_intake()
        if LaunchAgent.initialized():
            LaunchAgent.current().detach()
        _stop_now()

    def _drain(self) -> None:
        how = f" {self.reason}" if self.reason else ""
        log.warning("worker.draining%s: no new runs are taken; a second signal ends the jobs", how)
        self.turn_intake()
        if LaunchAgent.initialized() and not LaunchAgent.current().drain(timeout_s=self.start.config.drain_timeout):
            log.warning("worker.drain_timeout: what still runs is ended")
        _stop_now()


def worker_of(consumer: Any) -> LaunchWorker:
    """The launch worker of Celery's consumer."""
    launch: LaunchWorker = consumer.controller.launch_worker
    return launch


def _stop_now() -> None:
    """Have Celery's loop end the worker."""
    worker_state.should_stop = 0
