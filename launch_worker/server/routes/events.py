"""Streams all that changes: runs' arrows, queues, workers, sweeps, schedules, as far as a person may see them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from launch_worker.errors import InputError, LaunchError, RefusedError
from launch_worker.people.roles import Act, visible
from launch_worker.server.asker import AskedAgain, Asker, allowed
from launch_worker.server.events import Reading
from launch_worker.server.problems import document
from launch_worker.server.shared import Shared, SharedHere
from launch_worker.server.stream import COMMENT, COMMENT_S, Event, byte_stream
from launch_worker.server.told import GAP, Place, Sees, Told

log = logging.getLogger("launch_worker.server")

router = APIRouter(tags=["system"])
#: Bytes that are sent at once, about.
_CHUNK = 64 << 10
#: Events that are looked at before others have their turn.
_LOOKS = 2000
_TOO_SLOW = "this client takes events more slowly than they come, and is cut; come back with Last-Event-ID"


@dataclass(frozen=True)
class Wanted:
    """What of all events is asked for; an empty set is no condition."""

    runs: frozenset[str]
    queues: frozenset[str]
    projects: frozenset[str]
    kinds: frozenset[str]

    def has(self, told: Told) -> bool:
        if told.kind == GAP:
            return True
        return (
            (not self.kinds or told.kind in self.kinds)
            and (not self.runs or told.run in self.runs)
            and (not self.queues or told.queue in self.queues)
            and (not self.projects or told.project in self.projects)
        )


@router.get("/events", response_class=StreamingResponse)
async def follow_events(
    request: Request,
    shared: SharedHere,
    asker: Annotated[Asker, allowed(Act.SEE_SYSTEM)],
    last_event_id: Annotated[str | None, Header()] = None,
    run: Annotated[list[str], Query(description="Only of runs with these ids.")] = [],  # noqa: B006
    queue: Annotated[list[str], Query(description="Only of these queues and their runs.")] = [],  # noqa: B006
    project: Annotated[list[str], Query(description="Only of these projects.")] = [],  # noqa: B006
    kind: Annotated[list[str], Query(description="Only of these kinds.", examples=[["run"]])] = [],  # noqa: B006
) -> StreamingResponse:
    """Follow all that changes by server-sent events, each named by its kind, as docs/reference/archive.md has them.

    The id of an event, sent as `Last-Event-ID`, is where the stream goes on. An event `gap` says that changes before
    it are lost; `problem` is the last one of a stream that the server ends.
    """
    after = Place.of_text(last_event_id) if last_event_id else None
    if last_event_id and after is None:
        raise InputError("Last-Event-ID is the id of an event of this stream; leave it out to begin with what comes")
    wanted = Wanted(frozenset(run), frozenset(queue), frozenset(project), frozenset(kind))
    reading = await shared.events.reading(shared.stopping)
    return byte_stream(Follower(shared, request, asker, wanted, reading, after).chunks())


class Follower:
    """One stream of events. It holds nothing but a place: who is too slow is cut, and costs no memory until then."""

    def __init__(
        self, shared: Shared, request: Request, asker: Asker, wanted: Wanted, reading: Reading, after: Place | None
    ) -> None:
        self._shared = shared
        self._wanted = wanted
        self._reading = reading
        self._admit(asker)
        self._asked_again = AskedAgain(request)
        #: Place up to which it has seen events; None for one who begins now.
        self._place = after
        #: Who does not see all projects gets ids that count what they see within each millisecond: gaps in Redis' own
        #: numbers would tell how much more there is. The last such id, and the one from which on events are sent.
        self._counted = Place(-1, -1)
        self._sent: Place | None = None
        self._number = 0

    async def chunks(self) -> AsyncIterator[bytes]:
        """Encoded events as they come."""
        with self._reading.followed():
            try:
                async for chunk in self._chunks():
                    yield chunk
            except LaunchError as error:
                yield Event(document(error), kind="problem").encode()

    async def _chunks(self) -> AsyncIterator[bytes]:
        reading, sent_at = self._reading, time.monotonic()
        if self._place is None:
            self._number = reading.end
            if self._sees is not Sees.SOME:
                # A client that comes back before its first event goes on from here.
                yield b"id: %s\n\n" % str(reading.newest).encode()
        else:
            async for chunk in self._earlier(self._place):
                yield chunk
        while not reading.is_over:
            await self._ask_again()
            if self._number < reading.first:
                log.info("events.slow user=%s address=%s", self._person, self._address)
                raise RefusedError(_TOO_SLOW)
            if chunk := self._next():
                sent_at = time.monotonic()
                yield chunk
            elif self._number < reading.end:
                await asyncio.sleep(0)
            else:
                if time.monotonic() - sent_at >= COMMENT_S:
                    sent_at = time.monotonic()
                    yield COMMENT
                await reading.news()

    async def _earlier(self, place: Place) -> AsyncIterator[bytes]:
        """What came after a place, until the reader holds what follows."""
        reading = self._reading
        if not await run_in_threadpool(reading.has, place):
            lost = await run_in_threadpool(reading.gap)
            yield self._form(lost)
            place = lost.place
        elif self._sees is Sees.SOME:
            self._sent, place = place, Place(place.ms, -1)
        while (number := reading.number_after(place)) is None and not reading.is_over:
            await self._ask_again()
            page = await run_in_threadpool(reading.page_after, place)
            if page is None:
                page = [await run_in_threadpool(reading.gap)]
            elif not page:
                await reading.news()
            for told in page:
                if form := self._form(told):
                    yield form
                place = told.place
        self._number = reading.end if number is None else number
        self._place = place

    def _next(self) -> bytes:
        """The next events that are held and told; b'' for none of some."""
        reading, parts, size = self._reading, [], 0
        last = min(reading.end, self._number + _LOOKS)
        while self._number < last and size < _CHUNK:
            told = reading.event(self._number)
            self._number += 1
            if told.kind == GAP:
                # In a feed that began anew places may be smaller.
                self._place = None
            if self._place is not None and told.place <= self._place:
                continue
            if form := self._form(told):
                parts.append(form)
                size += len(form)
        return b"".join(parts)

    def _form(self, told: Told) -> bytes:
        """The event with its id; b'' for one that is not told."""
        if not self._wanted.has(told):
            return b""
        form = told.form(self._sees, self._sight)
        if form is None:
            return b""
        if self._sees is not Sees.SOME:
            return b"id: %d-%d\n%s" % (*told.place, form)
        ms = told.place.ms
        self._counted = Place(ms, self._counted.number + 1 if ms == self._counted.ms else 0)
        if told.kind == GAP:
            self._counted, self._sent = told.place, None
        if self._sent is not None and self._counted <= self._sent:
            return b""
        return b"id: %d-%d\n%s" % (*self._counted, form)

    # -- who follows -----------------------------------------------------------------------------------------------

    def _admit(self, asker: Asker) -> None:
        self._person, self._address = asker.person.name, asker.address
        self._sees, self._sight = Sees.of(asker.person), visible(asker.person)

    async def _ask_again(self) -> None:
        """Find out anew, now and then, what the person may see. Raises LoginError for one whose login has ended."""
        asker = await self._asked_again.asker()
        if asker is not None:
            asker.check(Act.SEE_SYSTEM)
            self._admit(asker)
