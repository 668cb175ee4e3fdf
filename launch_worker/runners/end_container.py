"""`end_container ID KILL_AT`: its stop signal now, SIGKILL at a boot time. A guard starts it for a lapsed lease.

On standard input: `{"run", "token", "owner", "redis", "attempt", "folder", "alone"}` as JSON. While the engine does not
answer, nobody knows whether the container has ended, so the attempt is held (`Store.hold`): its run is given to nobody
else, until this program knows better, or a worker takes the container over.

The guard has kept by then that the lease ended the attempt. That is taken back where the container is left to another
worker, and where it had ended by itself before and the guard was `alone`, without a worker that ends it too.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from typing import Any

from launch_worker.clock import boot_time_s
from launch_worker.errors import EngineAwayError, LaunchError, NoContainerError
from launch_worker.runners.container.engine import Engine, clear_errors
from launch_worker.runners.container.forgotten import end_forgotten
from launch_worker.runners.container.state import ContainerState
from launch_worker.runners.process.exits import Exit, keep_exit
from launch_worker.runners.process.own_process import hide_memory
from launch_worker.untrusted.text import read_json

log = logging.getLogger("launch_worker.end_container")

#: Seconds for which an engine that does not answer is asked again. After that the attempt stays held.
_PATIENCE_S = 3600.0
#: Seconds that an engine has for an answer: the attempt must be held before its lease is over.
_ANSWER_S = 1.0


class Hold:
    """Holds the attempt in Redis. Connects when it is first needed."""

    def __init__(self, known: dict[str, Any]) -> None:
        self._known = known
        self._store: Any = None
        self.is_placed = False

    def place(self) -> bool:
        """Keep the run from being given to another worker; False when another worker has taken the container over."""
        if not self._known.get("redis"):
            return True
        try:
            word = self._connect().hold(self._known["run"], self._known["token"], owner=self._known["owner"])
        except LaunchError as error:
            log.warning("run.not_held run=%s: %s", self._known["run"], error)
            return True
        self.is_placed = word == "held"
        return bool(word != "adopted")

    def release(self) -> None:
        """End the attempt's lease: the container is known to have ended."""
        give_up = boot_time_s() + _PATIENCE_S
        while self.is_placed and boot_time_s() < give_up:
            try:
                self._connect().release(self._known["run"], self._known["token"])
                return
            except LaunchError as error:
                log.warning("run.not_released run=%s: %s", self._known["run"], error)
                time.sleep(1.0)

    def _connect(self) -> Any:
        if self._store is None:
            # Only here: most containers are ended at once.
            from launch_worker.store.store import Store

            self._store = Store(self._known["redis"], client_name="launch-guard")
        return self._store


def main() -> None:
    hide_memory()
    container, kill_at = sys.argv[1], float(sys.argv[2])
    known = read_json(sys.stdin.read() or "{}")
    hold = Hold(known)
    if _end(container, known, hold, kill_at=kill_at):
        hold.release()


def _end(container: str, known: dict[str, Any], hold: Hold, *, kill_at: float) -> bool:
    """End the container; whether it is known to have ended."""
    engine, termed, give_up = Engine(look_timeout_s=_ANSWER_S), False, boot_time_s() + _PATIENCE_S
    was_away = is_signalled = False
    while boot_time_s() < give_up:
        try:
            with clear_errors():
                api = engine.api()
                container = container or _find(api, known)
                found = api.inspect_container(container)
                state = found["State"]
                if was_away and hold.is_placed and not hold.place():
                    _spare(known, is_signalled=is_signalled)
                    return False
                was_away = False
                if state["Status"] == "created":
                    # Its worker, should it wake up, must not start it any more.
                    end_forgotten(engine, container)
                    api.remove_container(container, v=True, force=True)
                    return True
                if not state["Running"]:
                    if not is_signalled and known.get("alone"):
                        _keep(known, ContainerState.of(found).exit_status)
                    return True
                if boot_time_s() >= kill_at:
                    is_signalled = True
                    api.kill(container, "SIGKILL")
                elif not termed:
                    is_signalled = True
                    api.kill(container, ContainerState.of(found).stop_signal)
                    termed = True
        except NoContainerError:
            return True
        except EngineAwayError:
            was_away = True
            if not hold.place():
                _spare(known, is_signalled=is_signalled)
                return False
            time.sleep(_ANSWER_S)
        except LaunchError:
            pass  # it ended meanwhile
        time.sleep(0.05)
    return False


def _spare(known: dict[str, Any], *, is_signalled: bool) -> None:
    """Leave a container to the worker that has taken it over, whose lease goes on."""
    if not is_signalled:
        _keep(known, -signal.SIGKILL)


def _keep(known: dict[str, Any], status: int) -> None:
    """Keep that the lease has not ended the container, in place of what the guard has kept."""
    if known.get("folder") and known.get("attempt"):
        keep_exit(known["folder"], known["attempt"], Exit(status, "", boot_time_s()))


def _find(api: Any, known: dict[str, Any]) -> str:
    """Find the container of an attempt that is known by its labels only. Raises NoContainerError."""
    wanted = [f"launch.run={known.get('run')}", f"launch.token={known.get('token')}"]
    for entry in api.containers(all=True, filters={"label": wanted}):
        return str(entry["Id"])
    raise NoContainerError("there is no container of this attempt")
