"""Answers Celery's remote control of a worker: `celery control …`, `celery inspect …`, Flower's buttons.

Each command does what it says by a launch worker's own means, or is refused with a sentence. Those that are not named
here work as Celery has them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from celery.worker.control import Panel, control_command, inspect_command, nok, ok
from celery.worker.control import rate_limit as celerys_rate_limit

from launch_worker.agent.launch_agent import LaunchAgent
from launch_worker.agent.queue_watch import QueueWatch
from launch_worker.celery.message import RUN_TASK, SOMEBODY
from launch_worker.celery.worker import LaunchWorker, worker_of
from launch_worker.errors import InputError, LaunchError, UnknownRunError
from launch_worker.ids import RUN_ID
from launch_worker.model.checks import check_queue_name
from launch_worker.model.states import RunState

log = logging.getLogger("launch_worker.remote")

#: Why a command of Celery means nothing here, and what there is instead, by command.
REFUSED = {
    "autoscale": "a launch worker has as many slots as it was started with (--limit, -c); idle ones cost nothing",
    "pool_grow": "a launch worker has as many slots as it was started with; start it with another --limit",
    "pool_shrink": "a launch worker has as many slots as it was started with; start it with another --limit",
    "pool_restart": "each job is a process of its own; to replace the worker: launch-worker workers upgrade",
    "time_limit": "a run has a time limit of its own: launch-submit --timeout, or the queue's default "
    "(launch-worker queues set NAME --default timeout=2h)",
    "revoke_by_stamped_headers": "runs have no stamps; cancel them by id or by queue: launch-worker cancel",
    "objgraph": "a worker draws no graph of its memory; what it takes is told by: celery inspect stats",
    "election": "launch workers elect nobody; whatever is done once is done by a script in Redis",
}


@inspect_command(default_timeout=2.0)  # type: ignore[untyped-decorator]
def runs(state: Any, **_: Any) -> list[dict[str, Any]]:
    """The runs that each worker executes now."""
    return LaunchAgent.current().snapshot() if LaunchAgent.initialized() else []


@control_command(name="shutdown")  # type: ignore[untyped-decorator]
def shut_down(state: Any, **_: Any) -> dict[str, str]:
    """Drain worker(s): as SIGTERM, jobs go on to their end."""
    launch = worker_of(state.consumer)
    if launch.is_leaving:
        return ok("the worker drains already: it takes no new runs, and leaves when its jobs have ended")  # type: ignore[no-any-return]
    launch.drain("through Celery's remote control")
    return ok("the worker drains: it takes no new runs, and leaves when its jobs have ended")  # type: ignore[no-any-return]


@control_command(variadic="task_id", signature="[id1 [id2 [... [idN]]]]")  # type: ignore[untyped-decorator]
def revoke(state: Any, task_id: Any, terminate: bool = False, signal: Any = None, **_: Any) -> dict[str, str]:
    """Cancel runs that wait; with terminate=True also those that run."""
    ids = [task_id] if isinstance(task_id, str) else list(task_id or ())
    return _cancel(ids, running=bool(terminate), at_once=str(signal).upper() in ("KILL", "SIGKILL", "9"))


@control_command(  # type: ignore[untyped-decorator]
    variadic="task_id", args=[("signal", str)], signature="<signal> [id1 [id2 [... [idN]]]]"
)
def terminate(state: Any, signal: Any, task_id: Any, **_: Any) -> dict[str, str]:
    """Cancel runs: with SIGKILL at once, with any other signal as they ask for it (--grace)."""
    return revoke(state, task_id, terminate=True, signal=signal)  # type: ignore[no-any-return]


def _cancel(ids: Iterable[Any], *, running: bool, at_once: bool) -> dict[str, str]:
    """Cancel runs. Every worker is asked, and a second cancel changes nothing."""
    store = LaunchAgent.current().api.store
    reason = "terminated through Celery" if running else "revoked through Celery"
    done: list[str] = []
    problems: list[str] = []
    for run_id in ids:
        if not isinstance(run_id, str) or not RUN_ID.fullmatch(run_id):
            problems.append(f"{str(run_id)[:40]!r} is no run's id")
            continue
        try:
            if not running and store.get(run_id).state is not RunState.PENDING:
                problems.append(f"run {run_id} does not wait; to end it: terminate, or launch-worker cancel {run_id}")
                continue
            word, state = store.cancel(run_id, reason=reason, grace_s=0.0 if at_once else None, actor=SOMEBODY)
            (problems if word == "final" else done).append(f"run {run_id} is {state}" if word == "final" else run_id)
        except UnknownRunError:
            problems.append(f"there is no run {run_id}")
        except LaunchError as error:
            problems.append(f"run {run_id}: {error}")
    if problems:
        return nok("; ".join([*problems, *([f"cancelled: {', '.join(done)}"] if done else [])]))  # type: ignore[no-any-return]
    return ok(f"{'terminate' if running else 'revoke'}: {', '.join(done)}")  # type: ignore[no-any-return]


@control_command(  # type: ignore[untyped-decorator]
    args=[("task_name", str), ("rate_limit", str)], signature="<task_name> <rate_limit (e.g., 5/s | 5/m | 5/h)>"
)
def rate_limit(state: Any, task_name: str, rate_limit: str, **_: Any) -> Any:
    """Have worker(s) start so many runs a second, minute or hour (0 for any)."""
    if task_name != RUN_TASK:
        return nok(f"a launch worker has one task with a rate: {RUN_TASK}")
    if state.consumer.disable_rate_limits:
        return nok(
            "rate limits are off: put worker_disable_rate_limits = False into the worker's celeryconfig; or limit how "
            "many run at once: launch-worker queues set NAME --limit N"
        )
    answer = celerys_rate_limit(state, task_name, rate_limit)
    worker_of(state.consumer).turn_intake()
    return answer


@control_command()  # type: ignore[untyped-decorator]
def disable_events(state: Any, **_: Any) -> dict[str, str]:
    """Have worker(s) send no more events of runs. Celery's own does nothing where all groups are sent."""
    dispatcher = state.consumer.event_dispatcher
    if dispatcher is None:
        return nok("event dispatcher unavailable")  # type: ignore[no-any-return]
    if dispatcher.groups and "task" not in dispatcher.groups:
        return ok("task events already disabled")  # type: ignore[no-any-return]
    dispatcher.groups = (dispatcher.groups or {"worker"}) - {"task"}
    return ok("task events disabled")  # type: ignore[no-any-return]


@control_command(  # type: ignore[untyped-decorator]
    args=[("queue", str), ("exchange", str), ("exchange_type", str), ("routing_key", str)], signature="<queue>"
)
def add_consumer(state: Any, queue: str, exchange: Any = None, routing_key: Any = None, **_: Any) -> dict[str, str]:
    """Have worker(s) take runs from a queue too, until they end."""
    if exchange or routing_key:
        return nok("queues of runs have no exchanges and routing keys; give the queue's name alone")  # type: ignore[no-any-return]
    return _change(worker_of(state.consumer), queue, lambda watch: watch.add(queue), f"add consumer {queue}")


@control_command(args=[("queue", str)], signature="<queue>")  # type: ignore[untyped-decorator]
def cancel_consumer(state: Any, queue: str, **_: Any) -> dict[str, str]:
    """Have worker(s) take no more runs from a queue, until they end."""
    return _change(
        worker_of(state.consumer), queue, lambda watch: watch.drop(queue), f"no longer consuming from {queue}"
    )


def _change(launch: LaunchWorker, queue: str, change: Callable[[QueueWatch], None], said: str) -> dict[str, str]:
    try:
        check_queue_name(queue)
    except InputError as error:
        return nok(str(error))  # type: ignore[no-any-return]
    if launch.queue_watch is None or not launch.start.consumes_runs:
        return nok("this worker takes nothing from queues now (--limit 0, or --run-once)")  # type: ignore[no-any-return]
    change(launch.queue_watch)
    return ok(said)  # type: ignore[no-any-return]


def _refuse(name: str, why: str) -> None:
    known = Panel.meta[name]

    def refuse(state: Any, **_: Any) -> dict[str, str]:
        return nok(why)  # type: ignore[no-any-return]

    Panel.register(
        name=name, type=known.type, alias=known.alias, help=f"Refused: {why}.", signature=known.signature,
        args=known.args, variadic=known.variadic, default_timeout=known.default_timeout,
    )(refuse)  # fmt: skip


for _name, _why in REFUSED.items():
    _refuse(_name, _why)
