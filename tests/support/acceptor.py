"""Accepts TCP connections on a port of its own, each served in a thread: what the proxies of tests have in common."""

from __future__ import annotations

import contextlib
import socket
import threading
from abc import ABC, abstractmethod


class Acceptor(ABC):
    """Listens on loopback from its making until `close`."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._socket.accept()[0],), daemon=True).start()

    @abstractmethod
    def _serve(self, client: socket.socket) -> None:
        """Serve one connection until its end, and close it."""
