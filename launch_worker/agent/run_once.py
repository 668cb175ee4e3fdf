"""Takes the runs that wait now, waits for their ends and stops (`--run-once`)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from launch_worker.agent.launch_agent import LaunchAgent
from launch_worker.errors import BrokerUnavailableError, LaunchError
from launch_worker.model.outcome import Outcome
from launch_worker.model.run import Record
from launch_worker.model.states import RunState

log = logging.getLogger("launch_worker.run_once")

T = TypeVar("T")

_DUE_BATCH = 100
_TURN_S = 0.1


def run_once(
    agent: LaunchAgent,
    *,
    look: Callable[[], None],
    slots: int,
    strict_order: bool,
    on_end: Callable[[Record, Outcome], None],
) -> int:
    """Take what waits in the agent's queues now, execute it, and return how many items that were.

    `look` has the agent know its queues, once Redis can say which there are. What is ready later, retries of these
    runs too, is left; what waits for one of these to end (for its place in a limit, its devices) is taken then. While
    Redis is away it waits; a drain ends the pass, and what had begun then is executed to its end. With no slots it
    takes nothing.
    """
    store = agent.api.store
    if not slots:
        return 0
    _patiently(agent, look)
    while _patiently(agent, lambda: store.publish_due(limit=_DUE_BATCH)[0] >= _DUE_BATCH):
        pass
    before_us = _patiently(agent, store.now_us)
    free = threading.Semaphore(slots)
    threads: list[threading.Thread] = []

    def execute(run_id: str, seq: int) -> None:
        try:
            ended = agent.run(run_id, seq)
            if ended is not None and ended[0] is not RunState.PENDING:
                record = store.peek(run_id)
                if record is not None:
                    on_end(record, ended[1])
        except LaunchError as error:
            log.error("run.left run=%s: %s", run_id, error)
        finally:
            free.release()

    pause = threading.Event()
    while before_us is not None and agent.takes_runs:
        # Runs that were taken over from another worker hold slots as well.
        if agent.num_running_jobs >= slots or not free.acquire(blocking=False):
            pause.wait(_TURN_S)
            continue
        item = _patiently(agent, lambda: agent.take(before_us=before_us, strict=strict_order))
        if item is None:
            free.release()
            if not any(thread.is_alive() for thread in threads):
                break
            pause.wait(_TURN_S)
            continue
        thread = threading.Thread(target=execute, args=item, name=f"launch-once-{len(threads)}", daemon=True)
        threads.append(thread)
        thread.start()
    # Nothing more is to be given to it.
    agent.end_intake()
    for thread in threads:
        thread.join()
    return len(threads)


def _patiently(agent: LaunchAgent, call: Callable[[], T]) -> T | None:
    """The call's answer, however long Redis is away; None once the agent takes no runs."""
    try:
        return agent.outage.repeat(call, until=lambda: not agent.takes_runs)
    except BrokerUnavailableError:
        return None
