"""Sends server-sent events: one-way news that a browser asks for again, from where it was, by itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from starlette.responses import StreamingResponse

from launch_worker.server.shared import Shared

#: Seconds after which a stream that has nothing to say sends a comment: proxies end what is silent for long.
COMMENT_S = 15.0
COMMENT = b":\n\n"


class Event(NamedTuple):
    """One event of a stream. `id` is what the browser sends as `Last-Event-ID` when it comes back."""

    data: Any
    kind: str = ""
    id: str = ""

    def encode(self) -> bytes:
        lines = [f"id: {self.id}"] if self.id else []
        if self.kind:
            lines.append(f"event: {self.kind}")
        # JSON on one line: no text of others can begin a field.
        lines.append(f"data: {json.dumps(self.data, ensure_ascii=False, separators=(',', ':'))}")
        return ("\n".join(lines) + "\n\n").encode()


def event_stream(shared: Shared, events: AsyncIterator[Event]) -> StreamingResponse:
    """An answer that sends the events as they come, until they end or the server stops."""
    return byte_stream(_encoded(shared, events))


def byte_stream(chunks: AsyncIterator[bytes]) -> StreamingResponse:
    """An answer that sends events which are encoded already; the chunks end with the server by themselves."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(chunks, media_type="text/event-stream", headers=headers)


async def _encoded(shared: Shared, events: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    stopping = asyncio.ensure_future(shared.stopping.wait())
    upcoming = asyncio.ensure_future(anext(events))
    try:
        while True:
            await asyncio.wait((stopping, upcoming), timeout=COMMENT_S, return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                return
            if not upcoming.done():
                yield COMMENT
                continue
            try:
                event = upcoming.result()
            except StopAsyncIteration:
                return
            upcoming = asyncio.ensure_future(anext(events))
            yield event.encode()
    finally:
        stopping.cancel()
        upcoming.cancel()
