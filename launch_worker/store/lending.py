"""Connections for a client's hot calls: redis-py's own pool takes as long to lend one as the call itself."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import redis
from redis.exceptions import ConnectionError, TimeoutError

#: One that was used so short a time ago is not looked at before the next use: no server restarts so quickly.
_FRESH_S = 0.05


class _Idle(NamedTuple):
    connection: Any
    #: Monotonic.
    since_s: float


class Lender:
    """Sends one command after the other on idle connections, made as the client's pool makes them. Thread-safe.

    Raises what redis-py raises. Nothing is repeated.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._pool: Any = client.connection_pool
        self._idle: deque[_Idle] = deque()
        self._pid = os.getpid()

    def call(self, *words: Any) -> Any:
        connection = self._take() or self._pool.make_connection()
        try:
            with _timeouts_told():
                if not connection.is_connected:
                    connection.connect()
                    _let_kernel_wait(connection)
                connection.send_command(*words)
                return connection.read_response()
        finally:
            self._give(connection)

    def send(self, *words: Any) -> Callable[[], Any] | None:
        """Send a command without waiting for anything; returns what waits for its reply, to be called once.

        None when no connection is there.
        """
        connection = self._take()
        if connection is None:
            return None
        if not connection.is_connected:
            self._give(connection)
            return None
        try:
            connection.send_command(*words)
        except BaseException:
            self._give(connection)
            raise

        def reply() -> Any:
            try:
                with _timeouts_told():
                    return connection.read_response()
            finally:
                self._give(connection)

        return reply

    def _take(self) -> Any:
        """An idle one, if there is any; it is not connected if the server has closed it while nobody looked."""
        if self._pid != os.getpid():
            # A forked child must not speak on its parent's.
            self._idle, self._pid = deque(), os.getpid()
        try:
            connection, since_s = self._idle.pop()
        except IndexError:
            return None
        if connection.is_connected and time.monotonic() - since_s > _FRESH_S and _is_stale(connection):
            connection.disconnect()
        return connection

    def _give(self, connection: Any) -> None:
        self._idle.append(_Idle(connection, time.monotonic()))

    def close(self) -> None:
        while self._idle:
            self._idle.pop().connection.disconnect()


@contextmanager
def _timeouts_told() -> Iterator[None]:
    """A timeout that the kernel keeps is told as one."""
    try:
        yield
    except ConnectionError as error:
        if isinstance(error.__context__, BlockingIOError):
            raise TimeoutError(str(error)) from error
        raise


def _is_stale(connection: Any) -> bool:
    try:
        return bool(connection.can_read())
    except (ConnectionError, TimeoutError, OSError):
        return True


def _let_kernel_wait(connection: Any) -> None:
    """The same timeout, without the system call that Python makes before each read and write of a socket with one."""
    ours, timeout_s = connection._get_socket(), connection.socket_timeout
    if type(ours) is not socket.socket or not timeout_s:
        return
    whole = int(timeout_s)
    value = struct.pack("ll", whole, round(1e6 * (timeout_s - whole)))
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)
    ours.settimeout(None)
