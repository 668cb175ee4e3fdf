"""The private server that `launch-worker dev` and tests start."""

from __future__ import annotations

import socket

import pytest

from launch_worker.dev.redis_server import RedisServer


def test_the_port_of_a_server_that_was_killed_is_given_to_nobody_else() -> None:
    server = RedisServer()
    server.start()
    try:
        port = server.port
        server.kill()
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", 0))
            assert other.getsockname()[1] != port
            with pytest.raises(ConnectionRefusedError):
                other.connect(("127.0.0.1", port))
        server.start()
        assert server.port == port
    finally:
        server.stop()


def test_a_port_that_is_taken_is_replaced() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = RedisServer(port=port)
        server.start()
        try:
            assert server.port != port
        finally:
            server.stop()
