"""Measures how much room the disk of a worker's folder has."""

from __future__ import annotations

import os

from launch_worker.settings import Settings

#: Bytes that must be free unless the settings say otherwise: enough for some runs to begin.
_MIN_FREE_BYTES = 64 << 20


def shortage_of(settings: Settings) -> str:
    """A sentence about the worker's disk while it has less room than a run needs; '' when it has enough."""
    try:
        disk = os.statvfs(settings.work_dir)
    except OSError:
        return ""  # the next start of a job says what is wrong with the disk
    free, least = disk.f_bavail * disk.f_frsize, settings.min_free_bytes
    if least is None:
        least = min(_MIN_FREE_BYTES, disk.f_blocks * disk.f_frsize // 20)
    if free >= least:
        return ""
    return (
        f"LAUNCH_WORK_DIR {settings.work_dir} has {free >> 20:,} MiB free, and less than {least >> 20:,} MiB "
        "(LAUNCH_MIN_FREE_BYTES) is too little; make room there"
    )
