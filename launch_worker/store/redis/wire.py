"""Speaks with Redis over one plain connection, so that `launch-submit` need not import redis-py.

It sends commands and reads answers, no more. Whatever is out of the ordinary (TLS, sentinels, a refused login, a server
that is away or slow) is `Again`: the caller repeats the call with redis-py, which says what is wrong.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from typing import Any

import hiredis

from launch_worker.errors import LaunchError
from launch_worker.redis_url import RedisUrl
from launch_worker.store.redis.library import is_not_ready
from launch_worker.store.redis.transport import Again, NotReady, Refused

#: Short, so that a producer gives up within 5 s even after redis-py has tried too.
_CONNECT_TIMEOUT_S = 0.5
_ANSWER_TIMEOUT_S = 1.0
_MORE = object()


class Wire:
    """A connection for one thread, and only for commands that can be repeated without harm."""

    def __init__(self, url: str, *, name: str) -> None:
        """`name` is what `CLIENT LIST` shows. Connects at the first call."""
        self._url = url
        self._name = name
        self._socket: socket.socket | None = None
        self._reader = hiredis.Reader(replyError=Refused, notEnoughData=_MORE)
        self._unread = 0
        #: Answers that were read before `receive` was called for them.
        self._kept: deque[Any] = deque()
        #: Whether something was out of the ordinary: the connection is not used any more.
        self.is_over = False

    @staticmethod
    def fits(url: str) -> bool:
        """Whether a URL is plain enough for this connection."""
        return url.startswith("redis://")

    def call(self, *words: object) -> Any:
        """Send a command and wait for its answer, also while earlier answers are unread."""
        self._send(*words)
        while self._unread > 1:
            self._kept.append(self._next())
        reply = self._next()
        if isinstance(reply, Refused):
            raise self._refusal(reply) from reply
        return reply

    def line(self) -> _Line:
        return _Line(self)

    def _refusal(self, refused: Refused) -> LaunchError | NotReady:
        if is_not_ready(refused):
            return NotReady(str(refused))
        # Imported on demand: this is rare, and redis-py comes with it.
        from launch_worker.store.redis.connection import clear_error

        return clear_error(self._url, refused)

    def _send(self, *words: object) -> None:
        """Send a command. Never raises: reading its answer does."""
        if self.is_over:
            return
        try:
            if self._socket is None:
                self._socket = self._connected()
            self._socket.sendall(packed(*words))
            self._unread += 1
        except (OSError, ValueError, Again):
            self.close()

    def _next(self) -> Any:
        try:
            while not self.is_over:
                reply = self._reader.gets()
                if reply is _MORE:
                    self._reader.feed(self._read())
                else:
                    self._unread -= 1
                    return reply
        except (OSError, hiredis.HiredisError):
            pass
        self.close()
        raise Again

    def close(self) -> None:
        """End the connection: later commands are not sent, and unanswered ones get no answer."""
        self.is_over = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()

    def _read(self) -> bytes:
        data = self._socket.recv(1 << 16) if self._socket is not None else b""
        if not data:
            raise ConnectionResetError
        return data

    def _connected(self) -> socket.socket:
        url = RedisUrl.parse(self._url)
        host, port = url.servers[0]
        # As bytes: of a text Python would import IDNA's tables first.
        made = socket.create_connection((host.encode(), port), _CONNECT_TIMEOUT_S)  # type: ignore[arg-type]
        self._socket = made
        made.settimeout(_ANSWER_TIMEOUT_S)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        login = [part for part in (url.username, url.password) if part]
        steps = [packed("AUTH", *login)] if login else []
        steps.append(packed("CLIENT", "SETNAME", self._name))
        if url.db:
            steps.append(packed("SELECT", url.db))
        made.sendall(b"".join(steps))
        self._unread = len(steps)
        for _ in steps:
            if isinstance(self._next(), Refused):
                raise Again
        return made


class _Line:
    """The wire itself, for the order of whose answers the wire cares."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def send(self, *words: str | int) -> None:
        self._wire._send(*words)

    def receive(self) -> Any:
        wire = self._wire
        reply = wire._kept.popleft() if wire._kept else wire._next()
        if not isinstance(reply, Refused):
            return reply
        refusal = wire._refusal(reply)
        if isinstance(refusal, NotReady):
            raise refusal from reply
        return refusal

    def close(self) -> None:
        if self._wire._unread or self._wire._kept:
            self._wire.close()


def packed(*args: Any) -> bytes:
    """A command as the protocol has it. Raises TypeError for what is neither text, bytes nor number."""
    made: bytes = hiredis.pack_command(args)
    return made
