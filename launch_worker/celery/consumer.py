"""Makes Celery's consumer wait for Redis, stop at any point of its start, and end no runs.

Celery's own sleeps up to 30 s between two tries to connect, so that the first run after an outage waited as long; after
a refusal it tries again at once, for ever. Where its loop cannot go on, the process ends as it would by SIGKILL: its
guard ends the jobs, and the runs are Crashed, or tried again, by the usual rules.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from typing import Any, NoReturn

from billiard import active_children
from celery.worker import consumer as celery_consumer
from celery.worker import state as worker_state
from celery.worker.state import maybe_shutdown
from kombu.exceptions import OperationalError

from launch_worker.agent.launch_agent import LaunchAgent
from launch_worker.agent.outage import BACKOFF_CAP_S, backoff_s
from launch_worker.errors import BrokerUnavailableError

log = logging.getLogger("launch_worker.consumer")

#: Seconds between two looks whether the worker shall stop.
_TURN_S = 0.2
#: Seconds after which a connection that is lost does not count as a failure.
_LASTING_S = 10.0
#: Seconds between two tries to connect while connections are lost again and again, at most.
_LOST_CAP_S = 1.0
#: Seconds between two warnings that Redis refuses the worker.
_SAY_AGAIN_S = 30.0
#: Seconds for what remains to be done when the agent has stopped: connections to close, each with a timeout of 5 s.
_END_S = 30.0


class Consumer(celery_consumer.Consumer):  # type: ignore[misc]
    """The setting `worker_consumer`."""

    class Blueprint(celery_consumer.Consumer.Blueprint):  # type: ignore[misc]
        """The consumer's parts."""

        def restart(
            self, parent: Any, method: str = "stop", description: str = "restarting", propagate: bool = False
        ) -> None:
            """Stop the parts that were started, the last one first; the last one may have failed half-way."""
            steps = [step for step in parent.steps if step is not None][: self.started]
            for step in reversed(steps):
                stop = getattr(step, method, None)
                try:
                    if stop is not None:
                        stop(parent)
                except Exception as error:
                    # No more can be done: each part is started anew, or the worker ends.
                    log.debug("consumer.part_not_stopped %s: %r", step.alias, error, exc_info=True)

    #: Connections in a row that did not last, and when the last one failed.
    _failures = 0
    _failed_at = 0.0
    _said_at: float | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("consumer", "connection"):
            # These log that a connection is lost, made, and lost again.
            logging.getLogger(f"celery.worker.consumer.{name}").addFilter(lambda _: not self._is_refused())
        # This logs a traceback of a connection whose loss is known.
        logging.getLogger("celery.worker.loops").addFilter(
            lambda record: not str(record.msg).startswith("Error cleaning up after event loop")
        )

    def start(self) -> None:
        try:
            super().start()
        except Exception:
            log.critical(
                "worker.broken: Celery's loop cannot go on, so this worker ends as if it had been killed; its guard "
                "ends the jobs, which count as Crashed",
                exc_info=True,
            )
            die()

    def ensure_connected(self, conn: Any) -> Any:
        """Block until `conn` is connected. Raises WorkerShutdown or WorkerTerminate when the worker shall stop."""
        outage = LaunchAgent.current().outage
        failures = 0
        while True:
            while not outage.wait(timeout_s=_TURN_S):
                maybe_shutdown()
            maybe_shutdown()
            try:
                conn.ensure_connection(max_retries=0)
            except (OperationalError, *conn.recoverable_connection_errors) as error:
                outage.note(BrokerUnavailableError(str(error)))
                # A pause for a Redis that answers the heartbeat, and refuses this connection.
                time.sleep(min(_TURN_S, backoff_s(failures)))
                failures += 1
            else:
                self.first_connection_attempt = False
                return conn

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        super().on_connection_error_after_connected(exc)
        self._note_error(exc)

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        self._note_error(exc)

    def _note_error(self, error: Exception) -> None:
        """Have the heartbeat look at Redis: `ensure_connected` waits for it.

        Where the heartbeat finds nothing wrong, and the connection fails again, log why, now and then, and pause.
        """
        now = time.monotonic()
        self._failures = self._failures + 1 if now - self._failed_at < _LASTING_S else 0
        self._failed_at = now
        if not self._failures:
            self._said_at = None
            if LaunchAgent.initialized():
                LaunchAgent.current().outage.note(BrokerUnavailableError(str(error)))
            return
        if self._said_at is None or now - self._said_at >= _SAY_AGAIN_S:
            self._said_at = now
            log.warning("broker.refused: this worker takes no runs, and tries again every few seconds. %s", error)
        # A refused worker may wait longer than one whose connection was lost: the next connection may last.
        cap_s = _LOST_CAP_S if isinstance(error, self.connection_errors) else BACKOFF_CAP_S
        until = now + backoff_s(self._failures, cap_s=cap_s)
        while worker_state.should_stop is None and time.monotonic() < until:
            time.sleep(0.05)

    def _is_refused(self) -> bool:
        return self._failures > 0 and time.monotonic() - self._failed_at < _LASTING_S


def die() -> NoReturn:
    """End this process now, whatever its threads do."""
    for child in active_children():
        # The beat of `-B` would go on alone, and has nothing to lose.
        with contextlib.suppress(OSError, TypeError):
            os.kill(child.pid, signal.SIGKILL)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(1)


def end_in_time(code: int) -> None:
    """End this process after a while, if anything keeps it from its end."""

    def end() -> None:
        log.error("worker.stuck: it did not end within %.0f s after its agent had stopped, and is ended now", _END_S)
        logging.shutdown()
        os._exit(code)

    timer = threading.Timer(_END_S, end)
    timer.daemon = True
    timer.start()
