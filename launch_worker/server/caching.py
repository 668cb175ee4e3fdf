"""Gives each answer of JSON or HTML an ETag; a client that has the same already gets 304 and no body."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_TAGGED = frozenset(("application/json", "text/html"))


class Conditional:
    """The part of the application that compares. What a route sends in pieces, a stream, goes through as it is."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        known = {part.strip() for part in Headers(scope=scope).get("if-none-match", "").split(",")}
        start: Message | None = None

        async def sending(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and _is_tagged(message):
                # Its headers wait for the body.
                start = message
                return
            begun, start = start, None
            if begun is None:
                await send(message)
            elif message["type"] != "http.response.body" or message.get("more_body"):
                await send(begun)
                await send(message)
            else:
                # Weak: what is compressed on its way is the same to a reader.
                tag = f'W/"{hashlib.blake2b(message.get("body", b""), digest_size=12).hexdigest()}"'
                headers = MutableHeaders(raw=begun["headers"])
                headers["ETag"] = tag
                if known & {tag, tag.removeprefix("W/"), "*"}:
                    begun["status"], message = 304, {"type": "http.response.body", "body": b""}
                    del headers["Content-Length"], headers["Content-Type"]
                await send(begun)
                await send(message)

        await self._app(scope, receive, sending)


def _is_tagged(start: Message) -> bool:
    headers = Headers(raw=start["headers"])
    kind = headers.get("content-type", "").partition(";")[0]
    return start["status"] == 200 and kind in _TAGGED and "etag" not in headers


def as_json(value: Any) -> Response:
    """The value as JSON, which no model looks at again."""
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(body, media_type="application/json")
