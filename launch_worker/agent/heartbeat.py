"""Runs a worker's threads towards Redis: the heartbeat that renews all leases, and the subscription to orders."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from launch_worker.agent.orders import OF_RUNS
from launch_worker.agent.outage import Outage
from launch_worker.agent.probes import Vitals
from launch_worker.agent.worker_metrics import WorkerMetrics
from launch_worker.errors import BrokerUnavailableError
from launch_worker.maintenance.passes import PASSES, OnEnd, begin_passes, do_pass
from launch_worker.maintenance.schedules import fire_due
from launch_worker.model.worker import FreeCapacity
from launch_worker.settings import Settings
from launch_worker.store import keys
from launch_worker.store.store import Store
from launch_worker.store.workers import Pulse
from launch_worker.sweeps.drive import SweepMinder
from launch_worker.untrusted.log_line import Seldom
from launch_worker.untrusted.text import read_json

if TYPE_CHECKING:
    from launch_worker.agent.probe_server import ProbeServer

log = logging.getLogger("launch_worker.liveness")

#: Seconds between two looks for connections that are not needed any more.
_TRIM_EVERY_S = 60.0


class Heartbeat:
    """The heartbeat and the subscription of one worker, in two threads that end when `stopping` is set.

    The heartbeat also does the passes of beat when these are late.
    """

    def __init__(
        self,
        *,
        owner: str,
        store: Store,
        settings: Settings,
        outage: Outage,
        stopping: threading.Event,
        wake: threading.Event,
        vitals: Vitals,
        metrics: WorkerMetrics,
        renew: Callable[[], Pulse],
        free_capacity: Callable[[], FreeCapacity | None],
        on_order: Callable[[dict[str, Any]], None],
        on_queue: Callable[[str], None],
        on_end: OnEnd,
    ) -> None:
        """`renew` renews all leases of the worker; `wake` has the next heartbeat at once when it is set."""
        self._owner = owner
        self._store = store
        self._settings = settings
        self._outage = outage
        self._stopping = stopping
        self._wake = wake
        self._vitals = vitals
        self._metrics = metrics
        self._renew = renew
        self._free_capacity = free_capacity
        self._on_order = on_order
        self._on_queue = on_queue
        self._on_end = on_end
        self._probes: ProbeServer | None = None
        self._sweeps = SweepMinder(store, settings, stopping=stopping)
        outage.on_begin = wake.set
        #: Server time, microseconds, of the next due run by the last answer; 0 for none.
        self._expected = 0
        #: Server time, microseconds, until which the next heartbeat comes early enough for what is due; 0 while one
        #: is on its way.
        self._asks_at = 0.0
        self._trimmed_at = time.monotonic()
        self._maintenance: threading.Thread | None = None
        self._say_unusable = Seldom(log.error)
        self._heartbeat = threading.Thread(target=self._beat, name="launch-heartbeat", daemon=True)
        self._listener = threading.Thread(target=self._listen, name="launch-listener", daemon=True)

    def start(self) -> None:
        """Start both threads. Raises LaunchError when the address for the probes cannot be had."""
        if self._settings.health_address is not None:
            # Imported here: an HTTP server takes a while to import, and most workers have none.
            from launch_worker.agent.probe_server import ProbeServer

            self._probes = ProbeServer(self._settings.health_address, self._vitals, self._metrics)
        self._heartbeat.start()
        self._listener.start()

    def join(self) -> None:
        """Wait for the last heartbeat after `stopping` was set. The subscription ends with the process."""
        self._wake.set()
        self._heartbeat.join(5.0)
        if self._probes is not None:
            self._probes.close()
        self._vitals.forget()

    def _beat(self) -> None:
        while not self._stopping.is_set():
            pause_s = self._settings.heartbeat_s
            # What is published from here on may not be in the answer.
            self._asks_at = 0.0
            self._vitals.note_turn()
            try:
                pulse = self._renew()
                self._vitals.note_reached()
                if pulse.pass_age_s > 2 * self._settings.pass_s:
                    self._pass_soon()
                pause_s = min(pause_s, self._publish_due(pulse))
                self._outage.over()
                self._trim()
            except BrokerUnavailableError as error:
                self._outage.note(error)
                pause_s = self._outage.probe_pause_s()
            except Exception:
                log.exception("heartbeat.failed")
            self._wake.wait(pause_s)
            self._wake.clear()

    def _trim(self) -> None:
        if (now := time.monotonic()) - self._trimmed_at >= _TRIM_EVERY_S:
            self._trimmed_at = now
            self._store.trim()

    def _publish_due(self, pulse: Pulse) -> float:
        """Dispatch what is due now; returns the seconds until the next run is due."""
        free = self._free_capacity()
        ahead_us = 1e6 * free.prefetch_s if free is not None else 0.0
        now, next_due = pulse.now, pulse.next_due
        # A due schedule is answered once: it might be one that cannot be fired.
        soonest = min((due for due in (next_due, self._expected) if due), default=0)
        self._expected = next_due
        if soonest and soonest - ahead_us <= now:
            _, next_due, is_scheduled = self._store.publish_due(free=free)
            self._expected = next_due
            if is_scheduled:
                fire_due(self._store, self._settings)
            now = self._store.now_us()
        pause_s = max(0.0, (next_due - now) / 1e6) if next_due else self._settings.heartbeat_s
        self._asks_at = now + 1e6 * min(pause_s, self._settings.heartbeat_s) + ahead_us
        return pause_s

    def _pass_soon(self) -> None:
        # In a thread of its own: a long pass must not delay the heartbeats.
        if self._maintenance is None or not self._maintenance.is_alive():
            self._maintenance = threading.Thread(target=self._do_passes, name="launch-maintenance", daemon=True)
            self._maintenance.start()

    def _do_passes(self) -> None:
        try:
            for name in begin_passes(PASSES, self._store, self._settings, late_by=1.5):
                self._do_pass(name)
        except BrokerUnavailableError as error:
            self._outage.note(error)
        except Exception:
            log.exception("passes.failed")

    def _do_pass(self, name: str) -> None:
        try:
            do_pass(name, self._store, self._settings, on_end=self._on_end)
        except BrokerUnavailableError:
            raise
        except Exception:
            log.exception("pass.failed name=%s", name)

    def _listen(self) -> None:
        channels = [keys.orders_channel(self._owner), keys.admin_channel(self._owner)]
        channels += [keys.DUE, keys.QUEUE_NEWS, keys.SWEEP_NEWS]
        while not self._stopping.is_set():
            try:
                self._store.listen(channels, on_message=self._on_message, stopped=self._stopping.is_set)
            except BrokerUnavailableError as error:
                self._outage.note(error)
                self._outage.wait()
            except Exception:
                log.exception("listener.failed")
            # A pause for a Redis that answers the heartbeat, and refuses the subscription.
            self._stopping.wait(random.uniform(0.1, 0.3))

    def _on_message(self, channel: str, message: str) -> None:
        """Act on a publication. Anybody may have made it: an unusable one is logged, seldom, and ignored."""
        try:
            self._act_on(channel, message)
        except BrokerUnavailableError:
            raise
        except Exception as error:
            log.debug("message.unusable channel=%s", channel, exc_info=True)
            self._say_unusable("message.unusable channel=%s %.200r: %.200r", channel, message, error)

    def _act_on(self, channel: str, message: str) -> None:
        if channel == keys.DUE:
            # Every worker gets this message; one whose next heartbeat is early enough need not ask now.
            if not (self._asks_at and message.isdecimal() and int(message) >= self._asks_at):
                self._wake.set()
            return
        if channel == keys.QUEUE_NEWS:
            self._on_queue(message)
            return
        if channel == keys.SWEEP_NEWS:
            self._sweeps.notify(message)
            return
        order = read_json(message)
        if not isinstance(order, dict) or not isinstance(order.get("order"), str):
            raise ValueError("it is no order")
        # Whoever may cancel runs may publish on that channel, and need not be permitted to stop workers.
        if channel == keys.orders_channel(self._owner) and order["order"] not in OF_RUNS:
            raise ValueError("it came on the channel for orders about runs")
        self._on_order(order)
