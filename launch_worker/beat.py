"""The scheduler of `celery -A launch_worker beat`: it does the passes itself, so that they need no living worker."""

from __future__ import annotations

import logging
from typing import Any

from celery.beat import ScheduleEntry, Scheduler

from launch_worker.api import Api
from launch_worker.celery import settings
from launch_worker.errors import LaunchError
from launch_worker.events import show_end
from launch_worker.passes import PASSES, run_pass
from launch_worker.probe import touch
from launch_worker.store.safety import check_safe

log = logging.getLogger("launch_worker.beat")


class PassScheduler(Scheduler):  # type: ignore[misc]
    """Celery's in-memory scheduler. Our entries are done in this process; those of an operator are sent as tasks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            check_safe(settings)
        except LaunchError as error:
            raise SystemExit(f"launch_worker: {error}") from None
        self._api = Api(settings=settings)
        super().__init__(*args, **kwargs)

    def apply_entry(self, entry: ScheduleEntry, producer: Any = None) -> None:
        name = entry.task.removeprefix("launch_worker.")
        if name not in PASSES:
            super().apply_entry(entry, producer=producer)
            return
        try:
            done = run_pass(name, self._api.store, self._api.settings, on_end=show_end)
        except LaunchError as error:
            log.warning("pass.failed name=%s: %s", name, error)
        except Exception:
            log.exception("pass.failed name=%s", name)
        else:
            log.debug("pass.done name=%s count=%s", name, done)
            if settings.health_file is not None:
                touch(settings.health_file)
