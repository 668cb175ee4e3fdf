"""The Celery tasks: thin doors to the agent and to the passes."""

from __future__ import annotations

from launch_worker.agent import LaunchAgent
from launch_worker.celery import app
from launch_worker.message import RUN_TASK
from launch_worker.passes import PASSES, run_pass
from launch_worker.request import show_end


@app.task(name=RUN_TASK, Strategy="launch_worker.request:hand_over", ignore_result=True)  # type: ignore[untyped-decorator]
def run(run_id: str, seq: int) -> None:
    """Claim and execute one run. The message is a doorbell: the record decides whether anything is done.

    A worker does it by its `Strategy`, without calling this.
    """
    LaunchAgent.current().run(run_id, seq)


def _register_pass(name: str) -> None:
    def do_pass() -> int | None:
        api = LaunchAgent.current().api
        return run_pass(name, api.store, api.settings, on_end=show_end)

    do_pass.__doc__ = PASSES[name].__doc__
    app.task(name=f"launch_worker.{name}", ignore_result=True, send_events=False)(do_pass)


for _name in PASSES:
    _register_pass(_name)
