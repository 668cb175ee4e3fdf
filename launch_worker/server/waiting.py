"""Waits in a request until something is so: woken by news, and by looks between them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from starlette.concurrency import run_in_threadpool

from launch_worker.server.served import Served
from launch_worker.server.shared import Shared

#: Seconds after which is looked without news: what is published while Redis is away reaches nobody.
_TURN_S = 2.0

T = TypeVar("T")


async def wait_for(
    shared: Shared, served: Served, thing: str, look: Callable[[], T], is_so: Callable[[T], bool], *, timeout_s: float
) -> T:
    """What a look at a run, group or sweep finds once it is so, or after the timeout, or when the server stops."""
    deadline = time.monotonic() + timeout_s
    with shared.news.of(thing) as woken:
        while True:
            woken.clear()
            found = await run_in_threadpool(look)
            left_s = deadline - time.monotonic()
            if is_so(found) or left_s <= 0 or shared.stopping.is_set():
                return found
            try:
                await asyncio.wait_for(woken.wait(), min(_TURN_S, left_s))
            except TimeoutError:
                await run_in_threadpool(served.catch_up)
