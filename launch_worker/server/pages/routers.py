"""Lists the pages."""

from __future__ import annotations

from launch_worker.server.pages import (
    account,
    audit,
    design,
    log,
    overview,
    people,
    problems,
    queues,
    ring,
    run,
    schedules,
    sweeps,
    theme,
    usage,
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
        account,
        people,
        audit,
        run,
        usage,
        theme,
        ring,
        design,
    )
)
