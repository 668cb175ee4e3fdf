"""Ends containers that their engine has forgotten, because it was killed while it started them.

Docker notes that a container runs a moment after it does. An engine that is killed in between calls the container
created when it is back, and removes it while its processes go on.
"""

from __future__ import annotations

import time

from launch_worker.errors import EngineAwayError
from launch_worker.runners.container.engine import Engine, clear_errors
from launch_worker.runners.process import tree

#: Path at which the init program is mounted when a container is started; before that there is no such file.
_INIT = "/sbin/docker-init"


def end_forgotten(engine: Engine, container: str) -> bool:
    """Kill the processes of a container that the engine calls created; whether its job may have run.

    Processes on another machine, as those of an engine behind TCP, are not seen, nor are they from within a container.
    Raises EngineAwayError, also when the processes cannot be killed; NoContainerError.
    """
    # In this order: both calls wait for a start that is under way.
    was_set_up = engine.stat(container, _INIT) is not None
    with clear_errors():
        found = engine.api().inspect_container(container)
    state = found["State"]
    if state["Status"] != "created" or state.get("Error") or (found["HostConfig"].get("Init") and not was_set_up):
        return False
    identity = found["Id"]
    if not tree.end(lambda: tree.of_container(identity), wait=time.sleep):
        pids = " ".join(str(process.pid) for process in tree.of_container(identity))
        raise EngineAwayError(
            f"the container engine has forgotten container {identity[:12]}, and this worker may not end its processes: "
            f"kill {pids}"
        )
    return True
