"""Schedules for `celery -A launch_worker beat`: it does the passes itself, so they need no living worker."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from typing import Any

from celery.beat import ScheduleEntry, Scheduler

from launch_worker.agent.outage import Outage
from launch_worker.agent.probes import touch
from launch_worker.api.client import Api
from launch_worker.celery.application import settings
from launch_worker.celery.events import show_end
from launch_worker.errors import BrokerUnavailableError, LaunchError
from launch_worker.maintenance.passes import PASSES, run_pass
from launch_worker.store.redis.safety import check_safe
from launch_worker.untrusted.log_line import Seldom

log = logging.getLogger("launch_worker.beat")


class PassScheduler(Scheduler):  # type: ignore[misc]
    """Celery's in-memory scheduler. Our entries are done in this process; an operator's entries are sent as tasks.

    While Redis is away one pass after the other is tried, with growing pauses, and nothing else is done. Missed passes
    are done when Redis is back.
    """

    #: None, as Celery's own producer is connected before the first entry is done, with up to 30 s between two tries.
    producer = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            check_safe(settings)
        except LaunchError as error:
            raise SystemExit(f"launch-worker: {error}") from None
        self._api = Api(settings=settings)
        self._outage = Outage(threading.Event(), meanwhile="passes wait")
        #: Passes to be done at once, in their order: passes that Redis did not answer, and all at the start.
        self._missed = list(PASSES)
        self._say_failed: defaultdict[str, Seldom] = defaultdict(lambda: Seldom(log.error))
        self._say_broken: defaultdict[str, Seldom] = defaultdict(lambda: Seldom(log.exception))
        super().__init__(*args, **kwargs)

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Do what is due; returns how many seconds may pass until the next call."""
        while self._missed:
            self._do(self._missed[0])
            if self._outage.is_on:
                return self._outage.probe_pause_s()
            self._missed.pop(0)
        pause_s: float = super().tick(*args, **kwargs)
        return 0.0 if self._missed else pause_s

    def apply_entry(self, entry: ScheduleEntry, producer: Any = None) -> None:
        name = entry.task.removeprefix("launch_worker.")
        if name in PASSES:
            self._do(name)
            if self._outage.is_on:
                self._missed.append(name)
            return
        try:
            self.apply_async(entry, advance=False)
        except Exception as error:  # noqa: BLE001 (whatever keeps it from being sent, beat goes on)
            self._say_failed[name]("schedule.failed name=%s: %s", entry.name, error)

    def _do(self, name: str) -> None:
        try:
            done = run_pass(name, self._api.store, self._api.settings, on_end=show_end)
        except BrokerUnavailableError as error:
            self._outage.note(error)
            return
        except LaunchError as error:
            self._say_failed[name]("pass.failed name=%s: %s", name, error)
        except Exception:  # noqa: BLE001 (with its traceback, but seldom)
            self._say_broken[name]("pass.failed name=%s", name)
        else:
            log.debug("pass.done name=%s count=%s", name, done)
            if settings.health_file is not None:
                touch(settings.health_file)
        self._outage.over()
