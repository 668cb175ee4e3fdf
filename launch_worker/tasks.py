"""The Celery tasks: thin doors to the agent and to the passes."""

from __future__ import annotations

from typing import Any

from celery import Task
from celery.exceptions import Ignore

from launch_worker.agent import LaunchAgent
from launch_worker.celery import app
from launch_worker.errors import LaunchError
from launch_worker.passes import PASSES, run_pass
from launch_worker.states import RunState
from launch_worker.worker import event_may_be_lost, show_end


class RunFailed(Exception):
    """How a run that did not finish looks to Celery: FAILURE, with the state and the reason."""


@app.task(  # type: ignore[untyped-decorator]
    name="launch_worker.run",
    bind=True,
    Request="launch_worker.worker:RunRequest",
    ignore_result=True,
    throws=(RunFailed,),
)
def run(self: Task, run_id: str, seq: int) -> str:
    """Claim and execute one run. The message is a doorbell: the record decides whether anything is done."""
    agent = LaunchAgent.current()
    ended = agent.run(run_id, seq)
    if ended is None:
        _show_killed_while_pending(self, run_id, agent)
        raise Ignore
    state, outcome = ended
    if state is RunState.FINISHED:
        return str(state.value)
    shown = f"{outcome.state}: {outcome.reason}"
    if state is RunState.PENDING:
        _show(self, "task-retried", exception=shown, traceback=None)
        raise Ignore
    if state is RunState.KILLED:
        _show(self, "task-revoked", terminated=True, signum=outcome.signal or None, expired=False)
        raise Ignore
    raise RunFailed(shown)


def _show_killed_while_pending(task: Task, run_id: str, agent: LaunchAgent) -> None:
    try:
        record = agent.api.store.get(run_id)
    except LaunchError:
        return  # it is gone, or Redis is: only Flower's picture suffers
    if record.state is RunState.KILLED:
        _show(task, "task-revoked", terminated=False, signum=None, expired=False)


def _show(task: Task, event: str, **facts: Any) -> None:
    with event_may_be_lost():
        task.send_event(event, **facts)


def _register_pass(name: str) -> None:
    def do_pass() -> int | None:
        api = LaunchAgent.current().api
        return run_pass(name, api.store, api.settings, on_end=show_end)

    do_pass.__doc__ = PASSES[name].__doc__
    app.task(name=f"launch_worker.{name}", ignore_result=True, send_events=False)(do_pass)


for _name in PASSES:
    _register_pass(_name)
