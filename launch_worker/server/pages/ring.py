"""Tells open pages that something of theirs has changed, at most once a second: they fetch it themselves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import StreamingResponse

from launch_worker.errors import LaunchError
from launch_worker.people.roles import Act, visible
from launch_worker.server.asker import AskedAgain, Asker, allowed
from launch_worker.server.events import Reading
from launch_worker.server.shared import SharedHere
from launch_worker.server.stream import COMMENT, COMMENT_S, Event, byte_stream
from launch_worker.server.told import GAP, Sees, Told

router = APIRouter(include_in_schema=False)
#: Seconds between two rings of a page, at least.
RING_S = 1.0


@router.get("/ring", response_class=StreamingResponse)
async def ring(
    request: Request,
    shared: SharedHere,
    asker: Annotated[Asker, allowed(Act.SEE_SYSTEM)],
    kind: Annotated[list[str], Query()] = [],  # noqa: B006
    run: Annotated[list[str], Query()] = [],  # noqa: B006
) -> StreamingResponse:
    """Send an event `ring` when a thing of these kinds (and, of runs, one of these) may have changed."""
    reading = await shared.events.reading(shared.stopping)
    return byte_stream(_rings(AskedAgain(request), asker, reading, frozenset(kind), frozenset(run)))


async def _rings(
    again: AskedAgain, asker: Asker, reading: Reading, kinds: frozenset[str], runs: frozenset[str]
) -> AsyncIterator[bytes]:
    sees, sight = Sees.of(asker.person), visible(asker.person)

    def is_news(told: Told) -> bool:
        if told.kind == GAP:
            return True
        wanted = told.kind in kinds and (not runs or not told.run or told.run in runs)
        return wanted and told.form(sees, sight) is not None

    yield COMMENT
    number, sent_at = reading.end, time.monotonic()
    # What a page fetches is up to a second old (`Shared.kept`): after the last of some changes it is rung once more.
    is_owed = False
    with reading.followed():
        while not reading.is_over:
            try:
                asked = await again.asker()
                if asked is not None:
                    asked.check(Act.SEE_SYSTEM)
                    sees, sight = Sees.of(asked.person), visible(asked.person)
            except LaunchError:
                # The page asks anew, and is led to the login.
                yield Event({}, kind="ring").encode()
                return
            # Of what is not held any more there may have been news.
            has_news = number < reading.first
            for one in range(max(number, reading.first), reading.end):
                if is_news(reading.event(one)):
                    has_news = True
                    break
            number = reading.end
            if has_news or is_owed:
                is_owed = has_news
                yield Event({}, kind="ring").encode()
                sent_at = time.monotonic()
                await asyncio.sleep(RING_S)
                continue
            if time.monotonic() - sent_at >= COMMENT_S:
                sent_at = time.monotonic()
                yield COMMENT
            await reading.news()
