"""Bytes that no client of ours sends: no doubt where a request ends, and nobody holds a connection for ever."""

from __future__ import annotations

import contextlib
import socket

import pytest

from launch_worker.server import serve
from tests.support.http_servers import KEY, TestServer

HEAD = f"Host: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"
#: A second request, which must not be taken for one of its own.
HIDDEN = f"GET /api/v1/whoami HTTP/1.1\r\n{HEAD}\r\n"


def answers_to(server: TestServer, sent: str, *, timeout_s: float = 10.0) -> bytes:
    """All that the server answers until it closes the connection, or says no more."""
    found = b""
    # A server that closes what it has not read through resets the connection.
    with (
        contextlib.suppress(ConnectionError),
        socket.create_connection(("127.0.0.1", server.address.port), timeout=timeout_s) as line,
    ):
        line.sendall(sent.encode("latin-1"))
        line.shutdown(socket.SHUT_WR)
        while part := line.recv(65536):
            found += part
    return found


@pytest.mark.parametrize(
    "head",
    [
        f"Content-Length: {len(HIDDEN) + 5}\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 0x5\r\n",
        " folded: x\r\n",
        "Bad\x00Name: x\r\n",
        "Host: evil.example\r\n",
    ],
)
def test_a_request_whose_end_is_in_doubt_is_refused_and_hides_no_second_one(server: TestServer, head: str) -> None:
    said = answers_to(server, f"POST /api/v1/whoami HTTP/1.1\r\n{head}{HEAD}\r\n0\r\n\r\n{HIDDEN}")
    assert said.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 421 ", b"HTTP/1.1 501 ")), said
    assert said.count(b"HTTP/1.1 ") == 1, said


@pytest.mark.parametrize("many", [f"X: {'a' * 100_000}\r\n", "X: a\r\n" * 20_000])
def test_a_large_head_is_refused(server: TestServer, many: str) -> None:
    assert b" 200 " not in answers_to(server, f"GET /live HTTP/1.1\r\n{many}{HEAD}\r\n")


# A connection on which nothing follows an answer is uvicorn's to close.
@pytest.mark.parametrize(
    ("begun", "is_first"),
    [("", True), ("GET /live HT", True), ("GET /live HT", False), ("GET /live HTTP/1.1\r\nX: ", False)],
)
def test_a_connection_without_the_head_of_a_request_is_closed(
    server: TestServer, monkeypatch: pytest.MonkeyPatch, begun: str, is_first: bool
) -> None:
    monkeypatch.setattr(serve, "HEAD_S", 0.1)
    with socket.create_connection(("127.0.0.1", server.address.port), timeout=30) as line:
        if not is_first:
            line.sendall(f"GET /live HTTP/1.1\r\n{HEAD}\r\n".encode())
            assert line.recv(65536).startswith(b"HTTP/1.1 200")
        line.sendall(begun.encode())
        # In its own time it would be open for ever.
        while line.recv(65536):
            pass
