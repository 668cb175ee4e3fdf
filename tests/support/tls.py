"""TLS in front of a server that has none, with a certificate made on the spot."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from tests.support.acceptor import Acceptor


def make_certificate(folder: Path, *, name: str, san: str) -> tuple[Path, Path]:
    """Make a self-signed certificate for the names in `san`; return its path and the key's."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words += ["-days", "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName={san}"]
    subprocess.run([*words, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    return certificate, key


def make_authority(folder: Path, *, san: str) -> tuple[Path, Path, Path]:
    """Make an authority, and a server's certificate that it has signed; return the authority's path, and those two."""
    authority, authority_key = make_certificate(folder, name="authority", san="DNS:authority")
    certificate, key = folder / "server.pem", folder / "server.key"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words += ["-days", "2", "-subj", "/CN=server", "-addext", f"subjectAltName={san}"]
    words += ["-addext", "basicConstraints=critical,CA:FALSE", "-CA", str(authority), "-CAkey", str(authority_key)]
    subprocess.run([*words, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    return authority, certificate, key


class TlsFront(Acceptor):
    """A proxy that accepts TLS on a port of its own and forwards the plain bytes to another port, and back."""

    def __init__(self, target_port: int, certificate: Path, key: Path, *, asks_clients: Path | None = None) -> None:
        self._target = target_port
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        if asks_clients is not None:
            self._context.verify_mode = ssl.CERT_REQUIRED
            self._context.load_verify_locations(asks_clients)
        super().__init__()

    def _serve(self, plain: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            plain,
            self._context.wrap_socket(plain, server_side=True) as client,
            socket.create_connection(("127.0.0.1", self._target)) as server,
        ):
            pump(client, server)


def pump(client: socket.socket, server: socket.socket, change: Callable[[bytes], bytes] = lambda data: data) -> None:
    """Forward bytes both ways until the client ends; `change` is applied to those of the client."""
    back = threading.Thread(target=_copy, args=(server, client, lambda data: data), daemon=True)
    back.start()
    _copy(client, server, change)
    with contextlib.suppress(OSError):
        server.shutdown(socket.SHUT_RDWR)
    back.join()


def _copy(source: socket.socket, target: socket.socket, change: Callable[[bytes], bytes]) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(change(data))
