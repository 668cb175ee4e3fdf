"""Takes the runs that wait now, waits for their ends and stops (`--run-once`)."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable

from launch_worker.agent.launch_agent import LaunchAgent
from launch_worker.errors import BrokerUnavailableError, LaunchError
from launch_worker.model.outcome import Outcome
from launch_worker.model.run import Record
from launch_worker.model.states import RunState

log = logging.getLogger("launch_worker.run_once")

_DUE_BATCH = 100
#: Seconds between two looks while nothing can be taken.
_TURN_S = 0.1

OnEnd = Callable[[Record, Outcome], None]


def run_once(agent: LaunchAgent, *, look: Callable[[], None], slots: int, strict_order: bool, on_end: OnEnd) -> None:
    """Take what waits in the agent's queues now, and execute it.

    `look` gives the agent its queues, once Redis can say which there are. What becomes ready later, retries of these
    runs too, is left; what waits for one of these runs to end (for a place in a limit, for devices) is taken then.
    While Redis is away the pass waits; a drain ends it, and what had begun then is executed to its end. With no slots
    nothing is taken.
    """
    threads: list[threading.Thread] = []
    if not slots:
        return
    # Raised once the worker drains.
    with contextlib.suppress(BrokerUnavailableError):
        _take_all(agent, threads, look=look, slots=slots, strict_order=strict_order, on_end=on_end)
    # From here on Redis gives the agent nothing more.
    agent.end_intake()
    for thread in threads:
        thread.join()


def _take_all(
    agent: LaunchAgent,
    threads: list[threading.Thread],
    *,
    look: Callable[[], None],
    slots: int,
    strict_order: bool,
    on_end: OnEnd,
) -> None:
    """Start a thread for each run, until nothing waits and none is executed. Raises BrokerUnavailableError."""
    store, repeat = agent.api.store, agent.outage.repeat

    def drains() -> bool:
        return not agent.takes_runs

    repeat(look, until=drains)
    while repeat(lambda: store.publish_due(limit=_DUE_BATCH)[0], until=drains) >= _DUE_BATCH:
        pass
    before_us = repeat(store.now_us, until=drains)
    while agent.takes_runs:
        num_alive = sum(thread.is_alive() for thread in threads)
        # Adopted runs hold slots as well, and have no thread here.
        if max(num_alive, agent.num_running_jobs) < slots:
            item = repeat(lambda: agent.take(before_us=before_us, strict=strict_order), until=drains)
            if item is not None:
                name = f"launch-once-{len(threads)}"
                threads.append(threading.Thread(target=_execute, args=(agent, *item, on_end), name=name, daemon=True))
                threads[-1].start()
                continue
            if not num_alive:
                return
        time.sleep(_TURN_S)


def _execute(agent: LaunchAgent, run_id: str, seq: int, on_end: OnEnd) -> None:
    try:
        ended = agent.run(run_id, seq)
        if ended is not None and ended[0] is not RunState.PENDING:
            record = agent.api.store.peek(run_id)
            if record is not None:
                on_end(record, ended[1])
    except LaunchError as error:
        log.error("run.left run=%s: %s", run_id, error)
