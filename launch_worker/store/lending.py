"""Connections for a client's hot calls: redis-py's own pool takes as long to lend one as the call itself."""

from __future__ import annotations

import os
from collections import deque
from typing import Any

import redis
from redis.exceptions import ConnectionError, TimeoutError


class Lender:
    """Sends one command after the other on idle connections, made as the client's pool makes them. Thread-safe.

    Raises what redis-py raises. Nothing is repeated.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._pool: Any = client.connection_pool
        self._idle: deque[Any] = deque()
        self._pid = os.getpid()

    def call(self, *words: Any) -> Any:
        if self._pid != os.getpid():
            # A forked child must not speak on its parent's.
            self._idle, self._pid = deque(), os.getpid()
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._pool.make_connection()
        try:
            if connection.is_connected and _is_stale(connection):
                # Closed by the server, while nobody looked; the command makes it anew.
                connection.disconnect()
            connection.send_command(*words)
            return connection.read_response()
        finally:
            self._idle.append(connection)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().disconnect()


def _is_stale(connection: Any) -> bool:
    try:
        return bool(connection.can_read())
    except (ConnectionError, TimeoutError, OSError):
        return True
