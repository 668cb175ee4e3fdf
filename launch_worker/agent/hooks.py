"""Lists the callbacks by which an agent tells its process of what happens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from launch_worker.agent.attempts import Ended
from launch_worker.maintenance.passes import OnEnd
from launch_worker.model.run import Record


def _ignore(*_: object) -> None:
    """Does nothing."""


def _ignore_adopted(record: Record) -> Callable[[Ended], None]:
    return _ignore


@dataclass(frozen=True)
class Hooks:
    """Callbacks, each called in a thread of the agent. The defaults do nothing."""

    #: Called with the name of a queue that was made, configured or deleted.
    on_queues: Callable[[str], None] = _ignore
    #: Called when the agent stops or resumes taking runs, with whether it takes them.
    on_intake: Callable[[bool], None] = _ignore
    #: Called when the worker was ordered to drain. None: `LaunchAgent.loop` stops.
    on_drain: Callable[[], None] | None = None
    #: Called when the worker was ordered to make room for its successor. None: `LaunchAgent.loop` stops.
    on_upgrade: Callable[[], None] | None = None
    #: Called with the record of a run that was adopted; its answer is called with how the run ended.
    on_adopt: Callable[[Record], Callable[[Ended], None]] = _ignore_adopted
    #: Called for each end that this agent found, or delivered for another worker.
    on_end: OnEnd = _ignore
    #: Called with the number of schedulers that run, when it changes.
    on_schedulers: Callable[[int], None] = _ignore
    #: Called with a sentence for people when another living worker has the same node name.
    on_twin: Callable[[str], None] = _ignore
