"""Ports for the servers of tests, which no other process is given meanwhile."""

from __future__ import annotations

import socket

from launch_worker.dev.redis_server import hold_port

#: Sockets that hold the ports until the end of this test process.
_HELD: list[socket.socket] = []


def own_port() -> int:
    """Return a loopback port on which nothing listens, and which is free for a server that the test starts."""
    _HELD.append(hold_port())
    return int(_HELD[-1].getsockname()[1])
