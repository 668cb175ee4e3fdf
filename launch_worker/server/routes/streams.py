"""Streams what happens to a run: its states and its output as they come, and the wait for its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from launch_worker.api.redis_runs import STORE_TURN_S, Filler
from launch_worker.api.shown import run_as_json
from launch_worker.api.transport import Place, Seen
from launch_worker.errors import LaunchError
from launch_worker.model.run import Record
from launch_worker.people.roles import Act
from launch_worker.server.asker import AskedAgain, Asker, allowed
from launch_worker.server.problems import document
from launch_worker.server.routes.runs import as_text
from launch_worker.server.served import Served
from launch_worker.server.shared import Shared, SharedHere
from launch_worker.server.stream import Event, event_stream

router = APIRouter(tags=["runs"])
Seeing = Annotated[Asker, allowed(Act.SEE_RUNS)]
#: Seconds after which a run is looked at without news: what is published while Redis is away reaches nobody.
_TURN_S = 2.0
#: Bytes of output from which on an event gets no more.
_EVENT_BYTES = 64 << 10


@router.get("/runs/{run_id}/logs/tail", response_class=StreamingResponse)
async def tail_logs(
    request: Request,
    shared: SharedHere,
    asker: Seeing,
    run_id: str,
    last_event_id: Annotated[str | None, Header()] = None,
    logs: Annotated[bool, Query(description="Output too, and not the states alone.")] = True,
    attempt: Annotated[int | None, Query(ge=1, description="One attempt, to its end.")] = None,
    after: Annotated[str | None, Query(description="`place` of `/logs/lines`, as if it were `Last-Event-ID`.")] = None,
) -> StreamingResponse:
    """Follow a run to its end by server-sent events: `state`, `output`, `problem`.

    The id of an event, sent as `Last-Event-ID`, is where the stream goes on: nothing is lost or doubled.
    """
    given = last_event_id or after
    place = Place.of_text(given) if given else None
    served = await run_in_threadpool(Served, shared, asker)
    first = await run_in_threadpool(served.record, run_id)
    return event_stream(shared, _told(request, shared, served, first, place, logs=logs, attempt=attempt))


async def _told(
    request: Request,
    shared: Shared,
    served: Served,
    first: Record,
    place: Place | None,
    *,
    logs: bool,
    attempt: int | None,
) -> AsyncIterator[Event]:
    asked_again = AskedAgain(request)
    try:
        async for seen in _seen(shared, served, first, place, logs=logs, attempt=attempt):
            asker = await asked_again.asker()
            if asker is not None:
                # The run must still be seen.
                served = await run_in_threadpool(Served, shared, asker)
                await run_in_threadpool(served.record, first.id)
            yield await run_in_threadpool(_event, served, seen)
    except LaunchError as error:
        yield Event(document(error), kind="problem")


def _event(served: Served, seen: Seen) -> Event:
    if seen.record is None:
        return Event({"missing": seen.missing, **as_text(seen.data)}, kind="output", id=seen.place.to_text())
    state = None if seen.state is None else seen.state.value
    said = {"state": state, "run": run_as_json(served, seen.record)}
    return Event(said, kind="state", id=seen.place.to_text())


async def _seen(
    shared: Shared, served: Served, first: Record, place: Place | None, *, logs: bool, attempt: int | None
) -> AsyncIterator[Seen]:
    """What a follower sees after a place, as it comes."""
    if place is None or place.state is None:
        place = served.begin(first, place, attempt=attempt)
        yield Seen(place, first, first.state)
    filler = Filler(served.settings.log_url)
    with shared.news.of(first.id) as woken:
        while not place.is_end:
            woken.clear()
            for seen in await run_in_threadpool(_look, served, first.id, place, filler, logs=logs, attempt=attempt):
                if seen.record is None or seen.state is not None or seen.place.is_end or place.seen is None:
                    yield seen
                place = seen.place
            if not place.is_end:
                try:
                    await asyncio.wait_for(woken.wait(), STORE_TURN_S if filler.is_waiting else _TURN_S)
                except TimeoutError:
                    await run_in_threadpool(served.catch_up)


def _look(served: Served, run_id: str, place: Place, filler: Filler, *, logs: bool, attempt: int | None) -> list[Seen]:
    """What is new, output that follows output as one: a job may have written it in a thousand pieces."""
    found: list[Seen] = []
    joined = bytearray()
    for seen in served.news_of(run_id, place, filler, logs=logs, attempt=attempt):
        last = found[-1] if found else None
        if (
            last is not None
            and last.record is None
            and seen.record is None
            and not seen.missing
            and last.place.attempt == seen.place.attempt
            and len(joined) < _EVENT_BYTES
        ):
            joined += seen.data
            found[-1] = Seen(seen.place, data=bytes(joined), missing=last.missing)
        else:
            joined = bytearray(seen.data)
            found.append(seen)
    return [seen for seen in found if seen.record is not None or seen.data or seen.missing]


@router.get("/runs/{run_id}/wait")
async def wait_for_run(
    shared: SharedHere,
    asker: Seeing,
    run_id: str,
    timeout: Annotated[float, Query(ge=0, le=3600, description="Seconds at most.")] = 60,
) -> dict[str, Any]:
    """Answer when a run has ended and will not be retried, or after the timeout: the run as it is then."""
    served = await run_in_threadpool(Served, shared, asker)
    record = await run_in_threadpool(served.record, run_id)
    deadline = time.monotonic() + timeout
    seen = _seen(shared, served, record, None, logs=False, attempt=None)
    while not record.state.is_final and not shared.stopping.is_set():
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            break
        try:
            told = await asyncio.wait_for(anext(seen), left_s)
        except (TimeoutError, StopAsyncIteration):
            record = await run_in_threadpool(served.record, run_id)
            break
        record = told.record or record
    return await run_in_threadpool(run_as_json, served, record)
