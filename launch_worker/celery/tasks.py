"""Registers the Celery tasks: a run, which calls the agent, and each pass."""

from __future__ import annotations

from typing import Any

from celery import Task

from launch_worker.agent.launch_agent import LaunchAgent
from launch_worker.celery.application import app
from launch_worker.celery.events import show_end
from launch_worker.celery.message import RUN_TASK
from launch_worker.errors import InputError
from launch_worker.maintenance.passes import PASSES, run_pass

#: Options of Celery for calls that follow a call; each of these is a run of its own here.
_FOLLOWERS = ("chain", "chord", "link", "link_error")


class RunTask(Task):  # type: ignore[misc]
    """A call asks a worker to look at a run. What shall follow the run is said when that is submitted."""

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Send the call. Raises InputError for a call that others shall follow."""
        for name in _FOLLOWERS:
            if options.get(name):
                raise InputError(
                    f"a run cannot have a Celery {name}; submit the next one to wait for it: launch-submit --after, "
                    "launch_worker.submit(after=…)"
                )
        return super().apply_async(args, kwargs, **options)


@app.task(base=RunTask, name=RUN_TASK, Strategy="launch_worker.celery.request:hand_over", ignore_result=True)  # type: ignore[untyped-decorator]
def run(run_id: str, seq: int) -> None:
    """Claim and execute one run. The message is only a sign: the record decides whether anything is done.

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
