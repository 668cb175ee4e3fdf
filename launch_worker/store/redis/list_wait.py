"""Pops elements of lists on a connection of its own, and waits there while the lists are empty."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from typing import Any

import redis
from redis.exceptions import RedisError, ResponseError

from launch_worker.errors import BrokerUnavailableError, DamagedError
from launch_worker.store.causes import explained
from launch_worker.store.redis.connection import ANSWER_TIMEOUT_S, clear_errors

#: Seconds after which Redis forgets that it was asked to wake somebody.
_WAKE_KEPT_S = 10


class ListWait:
    """One wait for lists. `pop` is for one thread at a time, `wake` and `drop` for all others."""

    def __init__(self, client: redis.Redis, url: str, wake_list: str) -> None:
        """`wake_list` names a list of this wait alone: an element in it ends a `pop`."""
        self._client: Any = client
        self._url = url
        self._wake_list = wake_list
        self._connection: Any = None

    def pop(self, lists: Sequence[str], *, timeout_s: float) -> tuple[str, bytes] | None:
        """Pop from the first of these lists that is not empty; returns its name and the element.

        Waits for the first element while all are empty; returns None after the timeout, and after `wake`. Raises
        BrokerUnavailableError, after which an element may have been popped, and DamagedError where a key is no list.
        """
        connection = self._connection
        try:
            if connection is None:
                pool = self._client.connection_pool
                connection = pool.connection_class(**pool.connection_kwargs)
                connection.connect()
                self._connection = connection
            connection.send_command("BRPOP", self._wake_list, *lists, timeout_s)
            reply = connection.read_response(timeout=timeout_s + ANSWER_TIMEOUT_S)
        except (RedisError, OSError) as error:
            if isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE"):
                raise DamagedError("the key of a queue is no list") from error
            # Read-only after a failover, no rights, loading: the next connection may be to a server that does it.
            self.close()
            problem = explained(self._url, error)
            if isinstance(problem, BrokerUnavailableError):
                raise problem from error
            raise BrokerUnavailableError(str(problem)) from error
        if not reply:
            return None
        name = reply[0].decode("utf-8", "replace")
        return None if name == self._wake_list else (name, reply[1])

    def wake(self) -> None:
        """Have the `pop` that waits now, or the next one, return None. Raises LaunchError."""
        with clear_errors(self._url):
            pipe = self._client.pipeline(transaction=True)
            pipe.lpush(self._wake_list, 1)
            pipe.expire(self._wake_list, _WAKE_KEPT_S)
            pipe.execute()

    def drop(self) -> None:
        """End the connection: a `pop` that waits raises BrokerUnavailableError, and the next one connects anew."""
        connection = self._connection
        # Its socket is None while it connects.
        sock = getattr(connection, "_sock", None)
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection of a wait in which no thread pops; the next pop connects anew."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()
