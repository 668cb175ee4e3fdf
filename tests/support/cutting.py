"""A TCP proxy that ends connections after the server has answered, and before the client has the answer."""

from __future__ import annotations

import contextlib
import re
import socket
import threading

from tests.support.acceptor import Acceptor


class Cutter(Acceptor):
    """A proxy on a port of its own, before a server of HTTP."""

    def __init__(self, target: int) -> None:
        self._target = target
        #: What the first lines of requests whose answers are cut have in them, how many are, and after how many bytes.
        self._cut, self._count = re.compile(""), 0
        self._after: int | None = 0
        #: First lines of all requests.
        self.asked: list[str] = []
        super().__init__()
        self.url = f"http://127.0.0.1:{self.port}"

    def cut(self, pattern: str, *, count: int = 1, after: int | None = 0) -> None:
        """Cut the next answers to requests such as `POST .*/runs`, each after some bytes; None: at once."""
        self._cut, self._count, self._after = re.compile(pattern), count, after

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.create_connection(("127.0.0.1", self._target)) as server:
            # The number of bytes of the answer that still pass; None for all.
            passing: list[int | None] = [None]
            threading.Thread(target=_answer, args=(server, client, passing), daemon=True).start()
            while data := client.recv(1 << 16):
                if data.startswith((b"GET ", b"POST ", b"PUT ", b"PATCH ", b"DELETE ")):
                    self.asked.append(data.partition(b" HTTP/")[0].decode())
                    if self._count and self._cut.match(self.asked[-1]):
                        self._count -= 1
                        if self._after is None:
                            server.sendall(data)
                            return
                        passing[0] = self._after
                server.sendall(data)


def _answer(server: socket.socket, client: socket.socket, passing: list[int | None]) -> None:
    with contextlib.suppress(OSError):
        while data := server.recv(1 << 16):
            left = passing[0]
            client.sendall(data if left is None else data[:left])
            if left is not None:
                passing[0] = left = max(0, left - len(data))
                if not left:
                    break
        client.shutdown(socket.SHUT_RDWR)
