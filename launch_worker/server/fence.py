"""Stands before all routes: refuses strangers' names, other sites' acts and large bodies, and sets safe headers."""

from __future__ import annotations

import asyncio
import logging
from urllib.parse import urlsplit

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from launch_worker.people.claims import ProxyRules
from launch_worker.server.address import Names
from launch_worker.server.problems import for_who_asks, problem

log = logging.getLogger("launch_worker.server")

#: Bytes of a request's body at most, where a route does not allow more.
BODY_BYTES = 1 << 20
#: Seconds in which a part of a body must come.
BODY_S = 60.0
_LIMIT = "launch_worker.body_bytes"
#: Key of a request's scope: the address of the other end of the connection.
PEER = "launch_worker.peer"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

#: Content Security Policy of every answer that has none of its own: this server's own files only, no inline code.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Fence:
    """The outermost part of the application."""

    def __init__(self, app: ASGIApp, *, names: Names, proxies: ProxyRules) -> None:
        self._app = app
        self._names = names
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            # Nothing here speaks it.
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope[PEER] = scope["client"][0] if scope.get("client") else ""
        if self._proxies.trusts(scope[PEER]):
            _believe(scope)
        headers = Headers(scope=scope)
        sending = _with_safe_headers(send, is_https=scope.get("scheme") == "https")
        refusal = self._refusal(scope["method"], headers)
        if refusal:
            refused = problem(*refusal, code="NotAllowedError")
            # What follows on the connection may be a part of what was refused.
            refused.headers["Connection"] = "close"
            await refused(scope, receive, sending)
            return
        scope[_LIMIT] = BODY_BYTES
        has_begun = False

        async def noting(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await sending(message)

        try:
            await self._app(scope, _bounded(scope, receive), noting)
        except asyncio.CancelledError:
            # The server stops, and has waited long enough for this answer.
            log.warning("server.cut route=%s %s", scope["method"], scope["path"])
            if not has_begun:
                said = "the server stops; try again when it is back"
                answer = for_who_asks(Request(scope), problem(503, said, code="ServerUnavailableError"), said)
                await answer(scope, receive, sending)
        except Exception:
            log.exception("server.failed route=%s %s", scope["method"], scope["path"])
            if has_begun:
                # The connection is cut: the client sees that the answer has no end.
                raise
            said = "the server failed here; its log says why"
            answer = for_who_asks(Request(scope), problem(500, said, code="LaunchError"), said)
            await answer(scope, receive, sending)

    def _refusal(self, method: str, headers: Headers) -> tuple[int, str] | None:
        """Status and sentence for a request that no route may see."""
        if "transfer-encoding" in headers and "content-length" in headers:
            # Where this request ends is not the same to each program between.
            return 400, "a request has either a length or a transfer encoding"
        host = headers.get("host", "")
        if not self._names.has(host):
            return 421, "this server is not called by this name; an admin adds names with LAUNCH_SERVER_HOSTS"
        site = headers.get("sec-fetch-site")
        is_foreign = site not in (None, "same-origin", "none")
        if method not in _SAFE_METHODS:
            origin = headers.get("origin")
            if is_foreign or (origin is not None and urlsplit(origin).netloc.lower() != host.lower()):
                return 403, "another site may not act here; open this server's own page"
        elif is_foreign and headers.get("sec-fetch-mode") != "navigate":
            return 403, "another site may not read this; open this server's own page"
        return None


def _believe(scope: Scope) -> None:
    """Take from a trusted proxy's headers the client's address and whether it asked by https."""
    headers = Headers(scope=scope)
    # Some proxies replace a client's header, others add a line of their own behind it.
    scheme = headers.getlist("x-forwarded-proto")[-1:]
    if scheme in (["http"], ["https"]):
        [scope["scheme"]] = scheme
    # What stands before the last one was said by the client itself, or by proxies that nobody vouches for.
    client = ",".join(headers.getlist("x-forwarded-for")).rpartition(",")[2].strip()
    if client:
        scope["client"] = (client, 0)


def allow_body(request: Request, body_bytes: int) -> None:
    """Let a route that reads its request as a stream take a larger body; call it before the first read."""
    request.scope[_LIMIT] = body_bytes


def _bounded(scope: Scope, receive: Receive) -> Receive:
    """A `receive` that refuses a body beyond the limit, as early as that is known."""
    seen, is_whole = 0, False
    said = Headers(scope=scope).get("content-length", "")
    length = int(said) if said.isascii() and said.isdigit() else 0

    async def bounded() -> Message:
        nonlocal seen, is_whole
        if is_whole:
            return await receive()
        try:
            async with asyncio.timeout(BODY_S):
                message = await receive()
        except TimeoutError:
            raise HTTPException(408, f"nothing more of the body came within {BODY_S:g} s; send it again") from None
        is_whole = not message.get("more_body", False)
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            limit: int = scope[_LIMIT]
            if max(seen, length) > limit:
                raise HTTPException(413, f"the body is larger than {limit:,} bytes")
        return message

    return bounded


def _with_safe_headers(send: Send, *, is_https: bool) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=message.setdefault("headers", []))
            for name, value in _HEADERS.items():
                headers[name] = value
            headers.setdefault("Content-Security-Policy", POLICY)
            # What a person may see must not stay in a cache that another person reads.
            headers.setdefault("Cache-Control", "private, no-cache")
            if is_https:
                headers["Strict-Transport-Security"] = "max-age=31536000"
        await send(message)

    return sending
