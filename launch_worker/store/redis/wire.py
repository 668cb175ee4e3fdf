"""Speaks with Redis over one plain connection, so that `launch-submit` need not import redis-py.

It knows how to ask and what an answer is, and no more. Whatever is out of the ordinary (TLS, sentinels, a refused
login, a server that is away or slow) is `Again`: the caller does the same with redis-py, which says what is wrong.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from typing import Any

import hiredis

from launch_worker.redis_url import RedisUrl

#: With redis-py's own after them, a producer still gives up within 5 s.
_CONNECT_TIMEOUT_S = 0.5
_ANSWER_TIMEOUT_S = 1.0
_MORE = object()


class Again(Exception):
    """It may have been done and may not: the caller is to do it again, in the other way."""


class Refused(Exception):
    """The server's own words. What it was asked to do may be half done: it is not to be done again."""


class Wire:
    """For one thread, and only for what can be repeated without harm."""

    def __init__(self, url: str, *, name: str) -> None:
        """`name` is what `CLIENT LIST` shows. Connects at the first call."""
        self._url = url
        self._name = name
        self._socket: socket.socket | None = None
        self._reader = hiredis.Reader(replyError=Refused, notEnoughData=_MORE)
        self._unread = 0
        #: Answers that were read before somebody asked for them.
        self._kept: deque[Any] = deque()
        #: Something was out of the ordinary: it is of no more use.
        self.is_over = False

    @staticmethod
    def fits(url: str) -> bool:
        """Whether the URL is as plain as this is."""
        return url.startswith("redis://")

    def call(self, *args: object) -> Any:
        """Send, and wait for the answer, also when others are yet to be received. Raises as `receive`."""
        self.send(*args)
        while self._unread > 1:
            self._kept.append(self._next())
        return _sound(self._next())

    def send(self, *args: object) -> None:
        """Never raises: `receive` does. Answers come in the order of what was sent."""
        if self.is_over:
            return
        try:
            if self._socket is None:
                self._socket = self._connected()
            self._socket.sendall(_packed(*args))
            self._unread += 1
        except (OSError, ValueError, Again):
            self.close()

    def receive(self) -> Any:
        """The next answer. Raises Refused for an error, Again for none."""
        reply = self._kept.popleft() if self._kept else self._next()
        return _sound(reply)

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
        """What is sent from now on is not, and what was sent gets no answer."""
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
        made = socket.create_connection(url.servers[0], _CONNECT_TIMEOUT_S)
        self._socket = made
        made.settimeout(_ANSWER_TIMEOUT_S)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        login = [part for part in (url.username, url.password) if part]
        steps = [_packed("AUTH", *login)] if login else []
        steps.append(_packed("CLIENT", "SETNAME", self._name))
        if url.db:
            steps.append(_packed("SELECT", url.db))
        made.sendall(b"".join(steps))
        self._unread = len(steps)
        for _ in steps:
            if isinstance(self._next(), Refused):
                raise Again
        return made


def _sound(reply: Any) -> Any:
    if isinstance(reply, Refused):
        raise reply
    return reply


def _packed(*args: Any) -> bytes:
    packed: bytes = hiredis.pack_command(args)
    return packed
