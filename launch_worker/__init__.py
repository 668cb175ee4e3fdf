"""launch_worker: a self-hosted launch system on plain Celery and Redis.

Public are the names in `__all__`, `__version__`, the module `launch_worker.errors` and the function
`launch_worker.ids.new_run_id`. All other paths are private: they may change in any release.

The public names are imported on first use: a job that asks for `current_run`, or `launch-submit`, must not pay
for Celery, and `launch_worker.model.spec` must import neither celery nor redis.
"""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["Api", "LaunchAgent", "Run", "current_run", "submit", "submit_many"]

#: Type checkers know the name; importing `typing` for it would take most of the time that this import takes.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from launch_worker.agent.launch_agent import LaunchAgent
    from launch_worker.api.client import Api, Run, submit, submit_many
    from launch_worker.current import current_run

_HOMES = {
    "Api": "launch_worker.api.client",
    "LaunchAgent": "launch_worker.agent.launch_agent",
    "Run": "launch_worker.api.client",
    "current_run": "launch_worker.current",
    "submit": "launch_worker.api.client",
    "submit_many": "launch_worker.api.client",
}

# Hidden from type checkers, so that a wrong name is an error to them.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module 'launch_worker' has no attribute {name!r}")
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
