"""Reads the address at which the server listens, and the names under which people may call it."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from launch_worker.errors import SettingsError


@dataclass(frozen=True)
class Address:
    """A host and a port to listen at."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `HOST:PORT`, `[IPV6]:PORT` or `PORT`, which is on loopback. Raises SettingsError."""
        host, _, port = text.rpartition(":")
        if not (port.isascii() and port.isdigit() and int(port) < 65536) or (":" in host and host[0] != "["):
            raise SettingsError(
                f"the address {text[:60]!r} is not one; write it as 127.0.0.1:7600, 0.0.0.0:7600 or [::1]:7600"
            )
        return cls(host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether nobody on another machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def url(self) -> str:
        """The address as a browser of this machine takes it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def listen(self) -> socket.socket:
        """A socket that listens there. Raises SettingsError with a sentence."""
        try:
            family, _, _, _, place = socket.getaddrinfo(
                self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
        except OSError as error:
            raise SettingsError(f"the server cannot listen at {self.host}:{self.port}: {error.strerror}") from None
        # asyncio sends small answers at once (TCP_NODELAY) only over sockets that say that they are TCP's.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(place)
            listening.listen(1024)
        except OSError as error:
            listening.close()
            if isinstance(error, PermissionError):
                why = "a port below 1024 is root's"
            elif error.errno == 98:
                why = f"another program listens there; end it, or choose another port with --address {self.host}:PORT"
            else:
                why = str(error.strerror)
            raise SettingsError(f"the server cannot listen at {self.host}:{self.port}: {why}") from None
        return listening


class Names:
    """The names under which the server may be called.

    A page of a stranger can make a browser ask this server under a name of the stranger's own (DNS rebinding), and
    would then read the answer. It cannot do so with a number, so that every numeric address is taken.
    """

    def __init__(self, configured: tuple[str, ...]) -> None:
        machine = socket.gethostname().lower()
        self._names = {"localhost", machine, *(name.lower().rstrip(".") for name in configured)}

    def has(self, host: str) -> bool:
        """Whether the value of a Host header, with or without a port, may be used."""
        name = host_of(host)
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def host_of(authority: str) -> str:
    """The name or number in `HOST[:PORT]`, in lower case; '' for a text that is none."""
    try:
        return (urlsplit(f"//{authority}").hostname or "").rstrip(".")
    except ValueError:
        return ""
