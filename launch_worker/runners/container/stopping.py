"""Ends one container: announces the stop to its job, sends its stop signal, and SIGKILL after the grace."""

from __future__ import annotations

import logging
import threading
import time

import docker.errors

from launch_worker.clock import boot_time_s
from launch_worker.errors import EngineAwayError, LaunchError, NoContainerError
from launch_worker.runners.container.engine import clear_errors
from launch_worker.runners.container.life import RETRY_S, Containers, Life

log = logging.getLogger("launch_worker.container")

#: Seconds for which a signal waits for the file that announces it.
_ANNOUNCE_S = 1.0
#: Seconds between two SIGKILLs.
_KILL_AGAIN_S = 0.1


class Stopping:
    """The end that is asked for of one container. Thread-safe."""

    def __init__(self, life: Life, runner: Containers) -> None:
        self._life = life
        self._runner = runner
        self._announcing: threading.Thread | None = None

    def announce(self, reason: str, kill_at: float) -> None:
        """Show the job that it shall stop, before it is signalled if the engine is not slow."""
        life = self._life
        with life.changed:
            if not life.container:
                return
            before = self._announcing

            def show() -> None:
                if before is not None:
                    before.join()
                self._runner.talks.show_stop(life.container, reason, kill_at)

            self._announcing = threading.Thread(target=show, name=f"announce-{life.key}", daemon=True)
            self._announcing.start()

    def signal(self, name: str) -> None:
        """Send a signal that does not end the container; returns at once."""
        threading.Thread(target=self._pass_on, args=(name,), name=f"signal-{self._life.key}", daemon=True).start()

    def _pass_on(self, name: str) -> None:
        """Send a signal once the engine takes it, unless the container is being ended by then."""
        life = self._life
        while not life.is_over and life.kill_at is None:
            try:
                if life.container:
                    with clear_errors():
                        self._runner.engine.api().kill(life.container, name)
                    return
            except EngineAwayError as error:
                log.debug("container.not_signalled run=%s: %s", life.key, error)
            except LaunchError as error:
                # It has ended.
                log.info("container.not_signalled run=%s: %s", life.key, error)
                return
            life.pause(RETRY_S)

    def stop(self, *, grace_s: float) -> None:
        """Begin to end the container. A second call can only shorten the grace."""
        life = self._life
        with life.changed:
            kill_at = time.monotonic() + grace_s
            is_first = life.kill_at is None
            life.kill_at = kill_at if life.kill_at is None else min(kill_at, life.kill_at)
            life.changed.notify_all()
        if is_first:
            threading.Thread(target=self._end, name=f"stop-{life.key}", daemon=True).start()

    def expire(self, kill_at: float) -> None:
        """End the container too: its lease ran out, and the guard is ending it. `kill_at`: boot time of SIGKILL.

        One that is known to have ended by then ended without the guard.
        """
        if self._life.end is not None:
            return
        self._life.stopped_by = self._life.stopped_by or "lease"
        self.stop(grace_s=max(0.0, kill_at - boot_time_s()))

    # -- inside ----------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        life, is_termed = self._life, False
        if self._announcing is not None:
            self._announcing.join(_ANNOUNCE_S)
        while True:
            with life.changed:
                if life.is_over:
                    return
                kill_at = life.kill_at or 0.0
            left_s = kill_at - time.monotonic()
            pause_s = left_s
            try:
                if not life.container:
                    pause_s = RETRY_S  # it is being looked for
                elif left_s <= 0:
                    self._signal("SIGKILL")
                    pause_s = _KILL_AGAIN_S
                elif not is_termed:
                    self._signal(None)
                    is_termed = True
            except NoContainerError:
                return
            except EngineAwayError as error:
                log.debug("container.not_signalled run=%s: %s", life.key, error)
                pause_s = RETRY_S
            except LaunchError as error:
                log.warning("container.not_signalled run=%s: %s", life.key, error)
                pause_s = RETRY_S
            with life.changed:
                if life.kill_at == kill_at and not life.is_over:
                    life.changed.wait(max(0.01, pause_s))

    def _signal(self, name: str | None) -> None:
        """Send a signal (None: the image's stop signal), if the container still runs."""
        life, state = self._life, self._life.look()
        if not state.is_running:
            return
        api, before = self._runner.engine.api(), life.stopped_by
        reason = life.why_stopped() or "asked"
        with clear_errors(), life.signalling:
            if state.is_paused:
                api.unpause(life.container)
            # Before the signal: when it is lost with its answer, the container may have got it.
            life.stopped_by = reason
            try:
                api.kill(life.container, name or state.stop_signal)
            except docker.errors.APIError as error:
                life.stopped_by = before
                if "is not running" not in str(error.explanation):
                    raise
