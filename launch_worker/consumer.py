"""Celery's consumer of a launch worker: it connects when the worker's heartbeat has found Redis, and not before.

Celery's own sleeps up to 30 s between two tries, so that the first run after an outage waited as long.
"""

from __future__ import annotations

import time
from typing import Any

from celery.worker import consumer as celery_consumer
from celery.worker.state import maybe_shutdown
from kombu.exceptions import OperationalError

from launch_worker.agent import LaunchAgent
from launch_worker.errors import BrokerUnavailableError
from launch_worker.outage import backoff_s

#: Seconds between two looks whether the worker was told to stop.
_TURN_S = 0.2


class Consumer(celery_consumer.Consumer):  # type: ignore[misc]
    """The setting `worker_consumer`."""

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
                # For a Redis that answers the heartbeat, but not this.
                time.sleep(min(_TURN_S, backoff_s(failures)))
                failures += 1
            else:
                self.first_connection_attempt = False
                return conn
