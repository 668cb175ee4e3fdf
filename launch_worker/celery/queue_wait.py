"""Waits for elements of the worker's queues: a free slot's thread waits in Redis, and executes the run that comes.

What is no run goes to Celery's loop. While `celery control rate_limit` holds for runs, all goes there, and that loop
waits: it knows the rates.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from celery.worker import state as worker_state

from launch_worker.agent.launch_agent import LaunchAgent
from launch_worker.agent.outage import backoff_s
from launch_worker.celery.broker import heal, refuse
from launch_worker.celery.loop import WakingExecutor
from launch_worker.celery.message import PassItem, RunItem, read_element
from launch_worker.celery.request import RunRequest
from launch_worker.celery.worker import LaunchWorker
from launch_worker.errors import BrokerUnavailableError, DamagedError, LaunchError
from launch_worker.model.checks import MAINTENANCE_QUEUE
from launch_worker.store import keys
from launch_worker.untrusted.text import read_json

log = logging.getLogger("launch_worker.queues")

#: Seconds after which the wait asks Redis again. Of a machine that vanished, Redis serves the wait for so long: one
#: element may be lost to it, and its run is published again by a pass.
_ASK_AGAIN_S = 10.0
#: Seconds between two looks, while Redis is away, whether the wait is still wanted.
_TURN_S = 0.5
#: Seconds for which the end of a worker waits for the wait's.
_END_S = 1.0


class QueueWait:
    """The wait of one worker, of which one thread at a time has the part of the waiter. Thread-safe."""

    def __init__(self, agent: LaunchAgent, launch: LaunchWorker, executor: WakingExecutor) -> None:
        self._agent = agent
        self._launch = launch
        self._executor = executor
        self._wait = agent.api.store.list_wait(agent.owner)
        self._lock = threading.Lock()
        self._is_stopped = False
        self._has_waiter = False
        #: Lists that the waiter has asked for; None while it asks for none.
        self._asked: frozenset[str] | None = None
        #: Number of looks; the waiter leaves only if none came since it has read what is wanted.
        self._looks = 0
        #: Calls of Redis in a row that failed.
        self._failures = 0
        self._note_outage, agent.outage.on_begin = agent.outage.on_begin, self._begin_outage

    def look(self) -> None:
        """Begin, renew or end the wait, as queues and slots are now; from any thread, and at once."""
        lists = self._lists()
        with self._lock:
            self._looks += 1
            is_outdated = self._asked is not None and (lists is None or self._asked != frozenset(lists))
            is_missing = not self._has_waiter and lists is not None
        if is_missing:
            self._executor.submit_quietly(self._serve)
        elif is_outdated:
            # In a thread: Redis may not answer, and this may be Celery's loop.
            threading.Thread(target=self._wake, name="launch-wake", daemon=True).start()

    def stop(self) -> None:
        """End the wait; blocks until it has ended."""
        self._is_stopped = True
        self.look()
        until = time.monotonic() + _END_S
        while self._has_waiter and time.monotonic() < until:
            time.sleep(0.005)
        self._wait.drop()

    def _begin_outage(self) -> None:
        self._note_outage()
        # Its connection may be half open: then it would wait on while Redis is back.
        self._wait.drop()

    def _wake(self) -> None:
        try:
            self._wait.wake()
        except LaunchError as error:
            log.debug("wait.dropped: %s", error)
            self._wait.drop()

    def _lists(self) -> list[str] | None:
        """The lists to wait for, in their order; None where nothing may be taken."""
        launch, agent = self._launch, self._agent
        if self._is_stopped or launch.is_leaving or not launch.waits_itself:
            return None
        if not agent.takes_runs or not launch.has_free_slot:
            return None
        return [
            *keys.queue_lists(MAINTENANCE_QUEUE),
            *agent.lists(launch.open_queues(), strict=launch.start.is_strict_order),
        ]

    # -- in a slot's thread ----------------------------------------------------------------------------------------

    def _serve(self) -> None:
        """Wait and execute, until another thread waits or nothing may be taken."""
        while (item := self._next()) is not None:
            try:
                self._execute(item)
            except Exception:
                log.exception("item.failed run=%s", item.run_id)

    def _execute(self, item: RunItem) -> None:
        request = RunRequest.of_item(item, self._launch, hostname=self._launch.consumer.hostname)
        if request.revoked():
            return
        request.claim_soon()
        worker_state.task_reserved(request)
        # Meanwhile Redis answers the claim: another slot waits from now on.
        self.look()
        request.take_turn()

    def _next(self) -> RunItem | None:
        """Wait for a run; None where another thread waits, or nothing may be taken."""
        with self._lock:
            if self._has_waiter:
                return None
            self._has_waiter = True
        while True:
            looks = self._looks
            lists = self._lists()
            item = None if lists is None else self._ask(lists)
            with self._lock:
                if item is not None or (lists is None and looks == self._looks):
                    self._has_waiter = False
                    return item

    def _ask(self, lists: Sequence[str]) -> RunItem | None:
        """Wait for a run once; None where something else came, or nothing, or Redis is away."""
        with self._lock:
            self._asked = frozenset(lists)
        try:
            found = self._wait.pop(lists, timeout_s=_ASK_AGAIN_S)
        except BrokerUnavailableError as error:
            self._asked = None
            self._await_redis(error)
        except DamagedError as error:
            log.error("queue.damaged: %s; it is set aside", error)
            heal(keys.wake_list(self._agent.owner))
        except Exception:
            log.exception("wait.failed")
            time.sleep(_TURN_S)
        else:
            self._failures = 0
            return None if found is None else self._read(*found)
        finally:
            self._asked = None
        return None

    def _await_redis(self, error: BrokerUnavailableError) -> None:
        outage = self._agent.outage
        outage.note(error)
        # A pause for a Redis that answers the heartbeat, and refuses this.
        time.sleep(backoff_s(self._failures, cap_s=_TURN_S))
        self._failures += 1
        while not outage.wait(timeout_s=_TURN_S) and self._lists() is not None:
            pass

    def _read(self, name: str, element: bytes) -> RunItem | None:
        """The run that an element asks for; what else it may be is seen to here."""
        try:
            item = read_element(name, element)
        except Exception as error:
            log.exception("item.failed")
            item = f"it cannot be taken: {error!r:.200}"
        if isinstance(item, str):
            refuse(name, element, item)
            return None
        if isinstance(item, RunItem) and not self._launch.is_rate_limited:
            # Its claim finds out whether the worker takes runs still, and puts it back if not.
            return item
        self._launch.consumer.hub.call_soon(self._give_to_celery, item)
        return None

    # -- in Celery's loop ------------------------------------------------------------------------------------------

    def _give_to_celery(self, item: RunItem | PassItem) -> None:
        """Deliver a message as kombu does that has taken it itself."""
        try:
            channel = self._launch.consumer.task_consumer.channel
            channel.connection._deliver(read_json(item.message()), item.queue)
        except Exception as error:
            # Of a lost run or pass the record, or beat, makes another one.
            log.warning("item.lost queue=%s: Celery cannot take it now: %r", item.queue, error, exc_info=True)
