"""`end_container ID KILL_AT`: SIGTERM now, SIGKILL at a boot time. Started by a guard whose worker is gone."""

from __future__ import annotations

import sys
import time

from launch_worker.errors import LaunchError
from launch_worker.runners.engine import Engine, clear_errors
from launch_worker.runners.errors import EngineAwayError, NoContainerError
from launch_worker.runners.guard import boot_time_s

#: How long an engine that does not answer is asked again.
_PATIENCE_S = 600.0


def main() -> None:
    container, kill_at = sys.argv[1], float(sys.argv[2])
    engine, termed, give_up = Engine(), False, boot_time_s() + _PATIENCE_S
    while boot_time_s() < give_up:
        try:
            with clear_errors():
                state = engine.api().inspect_container(container)["State"]
                if state["Status"] == "created":
                    # Its worker, should it wake up, must not start it any more.
                    engine.api().remove_container(container, v=True, force=True)
                    return
                if not state["Running"]:
                    return
                if boot_time_s() >= kill_at:
                    engine.api().kill(container, "SIGKILL")
                elif not termed:
                    engine.api().kill(container, "SIGTERM")
                    termed = True
        except NoContainerError:
            return
        except EngineAwayError:
            time.sleep(1.0)
        except LaunchError:
            pass  # it ended meanwhile
        time.sleep(0.05)
