"""Lists the pages."""

from __future__ import annotations

from launch_worker.server.pages import (
    account,
    audit,
    channels,
    compare,
    design,
    log,
    overview,
    people,
    problems,
    queues,
    ring,
    run,
    runs,
    runs_acts,
    schedules,
    submit,
    sweeps,
    theme,
    usage,
    workers,
)

PAGES = tuple(
    part.router
    for part in (
        overview,
        # Before the page of one run: their paths look like ids.
        runs,
        runs_acts,
        compare,
        log,
        queues,
        workers,
        schedules,
        sweeps,
        problems,
        account,
        people,
        channels,
        audit,
        run,
        usage,
        submit,
        theme,
        ring,
        design,
    )
)
