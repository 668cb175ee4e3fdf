"""Sends commands by redis-py: on idle connections that are kept here, for redis-py's pool is slower."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import redis
from redis.exceptions import DataError, ReadOnlyError, RedisError, ResponseError

from launch_worker.errors import LaunchError
from launch_worker.store.causes import explained
from launch_worker.store.redis.library import is_not_ready
from launch_worker.store.redis.transport import NotReady
from launch_worker.store.redis.wire import packed

#: Number of idle connections that are kept whatever was needed.
_LEAST_IDLE = 2


class RedisPy:
    """Sends one command after the other on idle connections, made as the client's pool makes them. Thread-safe.

    redis-py's own pool takes 24 us more a call. Nothing is repeated. No connection belongs to a thread: one thread may
    send a claim, and another read the answer.
    """

    def __init__(self, client: redis.Redis, url: str) -> None:
        self._client = client
        self._url = url
        self._pool: Any = client.connection_pool
        #: Connections on which every answer was read.
        self._idle: deque[Any] = deque()
        #: Number of idle connections that no call has needed since the last `trim`.
        self._unneeded = 0
        self._pid = os.getpid()

    def call(self, *words: Any) -> Any:
        connection = self._take() or self._connected()
        self._send(connection, words)
        return self._answer(connection)

    def send(self, *words: Any) -> Callable[[], Any] | None:
        """Send a command without waiting for anything; returns what waits for its reply, to be called once.

        None when no connection is there. Both raise as `call` does.
        """
        connection = self._take()
        if connection is None:
            return None
        self._send(connection, words)
        return partial(self._answer, connection)

    def _connected(self) -> Any:
        # Not by the pool, which counts what it makes: it would make none after 100 that were lost.
        connection = self._pool.connection_class(**self._pool.connection_kwargs)
        try:
            connection.connect()
        except (RedisError, OSError) as error:
            raise _explained(self._url, error) from error
        return connection

    def _send(self, connection: Any, words: Iterable[Any]) -> None:
        try:
            # redis-py's own packing looks at each word first, and takes four times as long.
            connection.send_packed_command((packed(*words),), check_health=False)
        except TypeError as error:
            raise _explained(self._url, DataError(str(error))) from error
        except (RedisError, OSError) as error:
            connection.disconnect()
            raise _explained(self._url, error) from error

    def _answer(self, connection: Any) -> Any:
        try:
            reply = connection.read_response()
        except ResponseError as error:
            if isinstance(error, ReadOnlyError):
                # After a failover the same name may lead to another server, the new master.
                connection.disconnect()
            else:
                self._idle.append(connection)
            raise _explained(self._url, error) from error
        except (RedisError, OSError) as error:
            connection.disconnect()
            raise _explained(self._url, error) from error
        self._idle.append(connection)
        return reply

    def line(self) -> _Line:
        return _Line(self._pool, self._url)

    def _take(self) -> Any:
        """An idle connection; None where there is none, or the server has closed it meanwhile."""
        if self._pid != os.getpid():
            # A forked child must not use its parent's connections.
            self._idle, self._pid = deque(), os.getpid()
        try:
            connection = self._idle.pop()
        except IndexError:
            self._unneeded = 0
            return None
        self._unneeded = min(self._unneeded, len(self._idle))
        if _is_stale(connection):
            connection.disconnect()
            return None
        return connection

    def trim(self) -> None:
        """Close the connections that no call has needed since the last trim, but two; a burst of calls leaves many."""
        for _ in range(min(self._unneeded, len(self._idle) - _LEAST_IDLE)):
            with contextlib.suppress(IndexError):
                # The oldest: calls take the newest.
                self._idle.popleft().disconnect()
        self._unneeded = len(self._idle)
        # Of those that redis-py itself keeps, none is needed often.
        self._pool.disconnect(inuse_connections=False)

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
            self._connection.send_packed_command((packed(*words),))
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
    return explained(url, error)


def _is_stale(connection: Any) -> bool:
    """Whether anything came without a command: mostly the end of the connection."""
    try:
        return bool(connection.can_read())
    except (RedisError, OSError):
        return True
