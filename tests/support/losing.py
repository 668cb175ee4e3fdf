"""A TCP proxy before a Redis server: has a command carried out, and ends the connection in place of its answer."""

from __future__ import annotations

import contextlib
import socket
import threading
from urllib.parse import urlsplit

from tests.support.acceptor import Acceptor


class Losing(Acceptor):
    """A proxy on a port of its own; `url` is that of the server, through it."""

    def __init__(self, url: str) -> None:
        self.target = urlsplit(url).port
        #: Bytes of the commands whose answers are lost, and the number of those that are.
        self._what, self._count = b"", 0
        #: Number of answers that were lost.
        self.lost = 0
        super().__init__()
        self.url = url.replace(f":{self.target}/", f":{self.port}/")

    def lose(self, what: bytes, *, count: int = 1) -> None:
        """Lose the answers of the next commands that have these bytes."""
        self._what, self._count = what, count

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.create_connection(("127.0.0.1", self.target or 0)) as server:
            is_lost = threading.Event()
            threading.Thread(target=self._answer, args=(server, client, is_lost), daemon=True).start()
            while data := client.recv(1 << 16):
                if self._count and self._what in data:
                    self._count -= 1
                    is_lost.set()
                server.sendall(data)

    def _answer(self, server: socket.socket, client: socket.socket, is_lost: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                if is_lost.is_set():
                    self.lost += 1
                    break
                client.sendall(data)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
