"""A TCP proxy that lets through only as many bytes of its clients as a test allows."""

from __future__ import annotations

import contextlib
import math
import re
import socket
import threading

from tests.support.acceptor import Acceptor
from tests.support.tls import pump


class Throttle(Acceptor):
    """A proxy on a port of its own, before a server of HTTP."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._news = threading.Condition()
        self._left = math.inf
        #: First lines of requests that came through, without the protocol.
        self.asked: list[str] = []
        super().__init__()
        self.url = f"http://127.0.0.1:{self.port}"

    def allow(self, count: float) -> None:
        """Let so many further bytes through; math.inf for all."""
        with self._news:
            self._left = count
            self._news.notify_all()

    @property
    def is_holding(self) -> bool:
        """Whether no further byte comes through."""
        return self._left <= 0

    def puts(self) -> list[str]:
        """The paths of objects that were sent, or parts of them."""
        return [match[1] for line in list(self.asked) if (match := re.fullmatch(r"PUT (/[^?]*).*", line))]

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.create_connection(("127.0.0.1", self._target)) as server:
            pump(client, server, self._hold)

    def _hold(self, data: bytes) -> bytes:
        with self._news:
            while self._left <= 0:
                self._news.wait()
            self._left -= len(data)
        for line in re.findall(rb"(?:^|\r\n)((?:GET|PUT|POST|HEAD|DELETE) /[^ ]*) HTTP/1.1\r\n", data):
            self.asked.append(line.decode())
        return data
