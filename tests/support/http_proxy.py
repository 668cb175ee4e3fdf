"""An HTTP proxy that notes what it is asked for."""

from __future__ import annotations

import contextlib
import socket
from urllib.parse import urlsplit

from tests.support.acceptor import Acceptor
from tests.support.tls import pump


class HttpProxy(Acceptor):
    """A proxy on a port of its own. For whatever host it is asked, it speaks to this machine."""

    def __init__(self) -> None:
        #: First line and headers of each connection's first request.
        self.heads: list[list[str]] = []
        super().__init__()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            data = b""
            while b"\r\n\r\n" not in data:
                if not (more := client.recv(1 << 16)):
                    return
                data += more
            head = data.partition(b"\r\n\r\n")[0].decode().split("\r\n")
            self.heads.append(head)
            method, target, _ = head[0].split()
            place = urlsplit(target if method != "CONNECT" else f"//{target}")
            with socket.create_connection(("127.0.0.1", place.port or 80)) as server:
                if method == "CONNECT":
                    client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                    pump(client, server)
                else:
                    # A server gets the path alone.
                    origin = f" {place.scheme}://{place.netloc}".encode()
                    server.sendall(data.replace(origin, b" ", 1))
                    pump(client, server, lambda more: more.replace(origin, b" ", 1))
