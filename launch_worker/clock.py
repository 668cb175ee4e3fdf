"""Reads the machine's clock since its boot."""

from __future__ import annotations

import time


def boot_time_s() -> float:
    """Seconds since boot, suspended time included: the clock of deadlines between a worker and its guard."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
