"""Which requests get through the server to Celery's own page, in whose place a recorder stands here."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.http_servers import TestServer
from tests.support.people import tokens_of_everybody


@pytest.fixture
def pressed(server: TestServer) -> list[str]:
    """Paths of the requests that Celery's page got."""
    found: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        found.append(request.url.path)
        return httpx.Response(200, stream=httpx.ByteStream(b""))

    client = httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://celery")
    server.shared.celery_page = SimpleNamespace(client=client, wait_until_up=lambda: asyncio.sleep(0))  # type: ignore[assignment]
    return found


def post(server: TestServer, path: str, token: str) -> int:
    """The status of the answer to a request with just this path, which httpx would shorten."""
    place = urlsplit(server.url)
    with socket.create_connection((place.hostname, place.port or 0), timeout=30) as sock:
        head = f"POST {path} HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: Bearer {token}\r\n"
        sock.sendall(f"{head}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
        with sock.makefile("rb") as answer:
            return int(answer.readline().split()[1])


@pytest.mark.parametrize("up", ["../..", "%2e%2e/%2e%2e", "..%2f..", "x/./../../.."])
def test_a_path_that_leads_up_presses_no_other_button(server: TestServer, pressed: list[str], up: str) -> None:
    tokens = tokens_of_everybody(server)
    operator = server.shared.directory.by_token(tokens["operator"])
    assert operator is not None
    # An operator who sees all projects may cancel on Celery's page, and only an admin may do anything to a worker.
    with server.client() as admin:
        admin.patch("/api/v1/projects/ada/private", json={"private": False}).raise_for_status()
    assert post(server, "/celery/api/task/revoke/of-no-run", tokens["operator"]) == 200
    assert post(server, "/celery/api/worker/pool/grow/celery@vm", tokens["operator"]) == 403
    assert post(server, f"/celery/api/task/revoke/{up}/worker/shutdown/celery@vm", tokens["operator"]) == 404
    assert post(server, f"/celery/api/worker/{up}/api/task/apply/launch_worker.passes", tokens["admin"]) == 404
    assert pressed == ["/celery/api/task/revoke/of-no-run"]
