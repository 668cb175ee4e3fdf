"""What a request that has been cut by the server's stop is told."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from launch_worker.people.claims import ProxyRules, parse_networks
from launch_worker.server.address import Names
from launch_worker.server.fence import Fence

SCOPE = {
    "type": "http",
    "method": "GET",
    "path": "/api/v1/runs",
    "headers": [(b"host", b"localhost")],
    "client": ("127.0.0.1", 1),
    "scheme": "http",
    "query_string": b"",
    "server": ("localhost", 1),
}


def test_who_waits_when_the_server_stops_is_told_so() -> None:
    sent: list[Message] = []

    async def never(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    async def ask_and_stop() -> None:
        rules = ProxyRules(networks=(), user_header="x", groups_header="y", roles={})
        scope: dict[str, Any] = dict(SCOPE)
        asking = asyncio.create_task(Fence(never, names=Names(()), proxies=rules)(scope, receive, send))
        await asyncio.sleep(0)
        asking.cancel()
        await asking

    asyncio.run(ask_and_stop())
    assert sent[0]["status"] == 503
    assert json.loads(sent[1]["body"])["detail"] == "the server stops; try again when it is back"


@pytest.mark.parametrize(
    ("lines", "address"),
    [
        (["10.0.0.7"], "10.0.0.7"),
        (["6.6.6.6, 10.0.0.7"], "10.0.0.7"),
        # Some proxies leave the client's own line as it is, and add theirs behind it.
        (["6.6.6.6", "10.0.0.7"], "10.0.0.7"),
    ],
)
def test_a_client_behind_a_proxy_does_not_choose_its_address(lines: list[str], address: str) -> None:
    seen: list[Any] = []

    async def look(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope["client"][0], scope["scheme"]))

    async def nothing(*_: Any) -> Any:
        return {}

    rules = ProxyRules(networks=parse_networks("127.0.0.1", what="test"))
    said = [(b"x-forwarded-for", line.encode()) for line in lines]
    schemes = [(b"x-forwarded-proto", b"http"), (b"x-forwarded-proto", b"https")]
    scope: dict[str, Any] = dict(SCOPE) | {"headers": [*SCOPE["headers"], *said, *schemes]}
    asyncio.run(Fence(look, names=Names(()), proxies=rules)(scope, nothing, nothing))
    assert seen == [(address, "https")]
