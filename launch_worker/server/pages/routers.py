"""Lists the pages."""

from __future__ import annotations

from launch_worker.server.pages import (
    design,
    log,
    overview,
    problems,
    queues,
    ring,
    schedules,
    sweeps,
    theme,
    workers,
)

PAGES = tuple(
    part.router
    for part in (
        overview,
        log,
        queues,
        workers,
        schedules,
        sweeps,
        problems,
        theme,
        ring,
        design,
    )
)
