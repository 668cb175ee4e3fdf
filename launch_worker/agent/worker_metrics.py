"""Says how one worker is, in values of metrics, from what the worker knows: no question to Redis."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from launch_worker.agent.attempts import Attempts
from launch_worker.agent.capacity import Capacity
from launch_worker.agent.outage import Outage
from launch_worker.agent.probes import Vitals
from launch_worker.code.environments import folder_of, kept_in
from launch_worker.logs.recorder import buffer_folder
from launch_worker.outputs.outgoing import outgoing_names
from launch_worker.prometheus.metrics import Values, one
from launch_worker.settings import Settings


class WorkerMetrics:
    """The values of one worker, for a scrape. Thread-safe."""

    def __init__(
        self,
        *,
        settings: Settings,
        slots: int,
        vitals: Vitals,
        outage: Outage,
        attempts: Attempts,
        capacity: Capacity,
    ) -> None:
        self._settings = settings
        self._slots = slots
        self._vitals = vitals
        self._outage = outage
        self._attempts = attempts
        self._capacity = capacity

    def values(self) -> Values:
        vitals, outage = self._vitals, self._outage
        free_bytes = _free_bytes(self._settings.work_dir)
        return {
            "launch_worker_live": one(vitals.live().ok),
            "launch_worker_healthy": one(vitals.healthy().ok),
            "launch_worker_ready": one(vitals.ready().ok),
            "launch_worker_slots": one(self._slots),
            "launch_worker_running": one(self._attempts.num_running_jobs),
            "launch_worker_gpus": one(len(self._capacity.devices)),
            "launch_worker_gpus_held": one(len(self._capacity.held_devices)),
            "launch_worker_redis_away": one(outage.is_on),
            "launch_worker_outages_total": one(outage.count),
            "launch_worker_outage_seconds_total": one(outage.away_s),
            "launch_worker_renewal_age_seconds": one(vitals.silent_s),
            "launch_worker_renewals_late_total": one(vitals.late),
            "launch_worker_attempts_unknown": one(len(self._attempts.troubled)),
            "launch_worker_spool_bytes": one(_size(buffer_folder(self._settings.work_dir))),
            "launch_worker_environments": one(len(kept_in(folder_of(self._settings)))),
            "launch_worker_outputs_waiting": one(len(outgoing_names(self._settings.work_dir))),
            "launch_worker_disk_free_bytes": [] if free_bytes is None else one(free_bytes),
        }


def _free_bytes(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _size(folder: Path) -> int:
    """Bytes on the disk of the files in a folder; those that go meanwhile do not count."""
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                except OSError:
                    continue
    except OSError:
        return 0
    return total
