"""Sends commands by redis-py: on idle connections that are kept here, for redis-py's pool is slower."""

from __future__ import annotations

import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

import redis
from redis.exceptions import ConnectionError, RedisError, ResponseError, TimeoutError

from launch_worker.errors import LaunchError
from launch_worker.store.causes import explained
from launch_worker.store.redis.library import is_not_ready
from launch_worker.store.redis.transport import NotReady

#: Name of the private attribute in which redis-py keeps a connection's socket. Where it is missing, redis-py waits and
#: looks by itself, which takes 0.04 ms more a call.
_SOCKET = "_sock"


class RedisPy:
    """Sends one command after the other on idle connections, made as the client's pool makes them. Thread-safe.

    Nothing is repeated. A connection is nobody's own: one thread may send a claim, and another read the answer.
    """

    def __init__(self, client: redis.Redis, url: str) -> None:
        self._client = client
        self._url = url
        self._pool: Any = client.connection_pool
        self._idle: deque[Any] = deque()
        self._pid = os.getpid()

    def call(self, *words: Any) -> Any:
        connection = self._take() or self._pool.make_connection()
        try:
            if not connection.is_connected:
                connection.connect()
                _let_kernel_wait(connection)
            connection.send_command(*words)
            return connection.read_response()
        except (RedisError, OSError) as error:
            raise _explained(self._url, error) from error
        finally:
            self._idle.append(connection)

    def send(self, *words: Any) -> Callable[[], Any] | None:
        """Send a command without waiting for anything; returns what waits for its reply, to be called once.

        None when no connection is there. Both raise as `call` does.
        """
        connection = self._take()
        if connection is None:
            return None
        if not connection.is_connected:
            self._idle.append(connection)
            return None
        try:
            connection.send_command(*words)
        except BaseException as error:
            self._idle.append(connection)
            if isinstance(error, (RedisError, OSError)):
                raise _explained(self._url, error) from error
            raise

        def reply() -> Any:
            try:
                return connection.read_response()
            except (RedisError, OSError) as error:
                raise _explained(self._url, error) from error
            finally:
                self._idle.append(connection)

        return reply

    def line(self) -> _Line:
        return _Line(self._pool, self._url)

    def _take(self) -> Any:
        """An idle connection, or None. It is not connected if the server has closed it meanwhile."""
        if self._pid != os.getpid():
            # A forked child must not use its parent's connections.
            self._idle, self._pid = deque(), os.getpid()
        try:
            connection = self._idle.pop()
        except IndexError:
            return None
        if connection.is_connected and _is_stale(connection):
            connection.disconnect()
        return connection

    def close(self) -> None:
        while self._idle:
            self._idle.pop().disconnect()
        self._client.close()


class _Line:
    """A connection of a client's pool for one caller."""

    def __init__(self, pool: Any, url: str) -> None:
        self._pool = pool
        self._url = url
        self._unread = 0
        try:
            self._connection: Any = pool.get_connection()
        except (RedisError, OSError) as error:
            raise _explained(url, error) from error

    def send(self, *words: str | int) -> None:
        try:
            self._connection.send_packed_command(self._connection.pack_command(*words))
        except (RedisError, OSError) as error:
            raise _explained(self._url, error) from error
        self._unread += 1

    def receive(self) -> Any:
        try:
            reply = self._connection.read_response()
        except ResponseError as error:
            self._unread -= 1
            refusal = _explained(self._url, error)
            if isinstance(refusal, NotReady):
                raise refusal from error
            return refusal
        except (RedisError, OSError) as error:
            raise _explained(self._url, error) from error
        self._unread -= 1
        return reply

    def close(self) -> None:
        if self._unread:
            self._connection.disconnect()
        self._pool.release(self._connection)


def _explained(url: str, error: Exception) -> LaunchError | NotReady:
    if is_not_ready(error):
        return NotReady(str(error))
    if isinstance(error, ConnectionError) and isinstance(error.__context__, BlockingIOError):
        # The kernel's timeout.
        return explained(url, TimeoutError(str(error)))
    return explained(url, error)


def _plain_socket(connection: Any) -> socket.socket | None:
    """The socket of a connection; None for one with TLS, and where redis-py keeps it by another name."""
    ours = getattr(connection, _SOCKET, None)
    return ours if type(ours) is socket.socket else None


def _is_stale(connection: Any) -> bool:
    """Whether anything came without a command: mostly the end of the connection."""
    ours = _plain_socket(connection)
    try:
        if ours is None:
            return bool(connection.can_read())
        # redis-py's own check takes several times as long.
        ours.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except (ConnectionError, TimeoutError, OSError):
        return True
    return True


def _let_kernel_wait(connection: Any) -> None:
    """The same timeout, without the system call that Python makes before each read and write of a socket with one."""
    ours, timeout_s = _plain_socket(connection), connection.socket_timeout
    if ours is None or not timeout_s:
        return
    whole = int(timeout_s)
    value = struct.pack("ll", whole, round(1e6 * (timeout_s - whole)))
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)
    ours.settimeout(None)
