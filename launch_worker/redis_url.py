"""Reads the URL of the launch Redis, the same for every part, and masks its password.

`redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]`, `rediss://` with TLS, and
`sentinel://[[USER]:PASSWORD@]HOST[:PORT][,HOST[:PORT]…]/MASTER[/DB]`, whose sentinels name the master.
"""

from __future__ import annotations

import os
import re
from dataclasses import field
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

from launch_worker.errors import SettingsError
from launch_worker.frozen import dataclass

_SCHEMES = ("redis", "rediss", "sentinel")
_PORTS = {"redis": 6379, "rediss": 6379, "sentinel": 26379}
_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*\.?")
_ADDRESS_6 = re.compile(r"\[([0-9A-Fa-f:.]{2,45}(%[A-Za-z0-9_.-]{1,30})?)\]")
_VERIFIES = {"required": "required", "optional": "optional", "none": "none"}
_SWITCH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_OPTIONS = ("ssl_cert_reqs", "ssl_check_hostname", *_FILES)
_FORM = (
    "LAUNCH_REDIS_URL must be written as redis://[[USER]:PASSWORD@]HOST[:PORT][/DB], rediss://… for TLS, or "
    "sentinel://[[USER]:PASSWORD@]HOST[:PORT],…/MASTER[/DB]"
)
_SENTINEL_FORM = (
    "a sentinel URL must be written as sentinel://[[USER]:PASSWORD@]HOST[:PORT][,HOST[:PORT]…]/MASTER[/DB], "
    "where MASTER is the name that the sentinels know the servers by"
)


@dataclass(frozen=True)
class RedisUrl:
    """A URL that was read. User and password are those of the Redis servers; sentinels are asked without."""

    scheme: str
    #: Host and port of the server, or of each sentinel.
    servers: tuple[tuple[str, int], ...]
    db: int = 0
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    #: Name by which the sentinels know the servers.
    master: str = ""
    #: Options of the connection, named as in redis-py and kombu.
    tls: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> RedisUrl:
        """Read a URL. Raises SettingsError, which repeats nothing of the text: a part of it may be a password."""
        scheme, separator, rest = text.partition("://")
        if not separator or scheme not in _SCHEMES or any(char < " " or char == "\x7f" for char in text):
            raise SettingsError(_FORM)
        # Split at the last @, so that a password may have any character, and no part of it is taken for a host.
        login, _, place = rest.rpartition("@")
        username, _, password = login.partition(":")
        if username and not password:
            raise SettingsError(
                "LAUNCH_REDIS_URL names a user without a password; write it as "
                f"{scheme}://USER:PASSWORD@HOST:PORT/DB, or leave out what is before the @"
            )
        place, _, query = place.partition("?")
        hosts, _, path = place.partition("/")
        master = ""
        if scheme == "sentinel":
            master, _, path = path.partition("/")
        servers = [_server(host, _PORTS[scheme]) for host in hosts.split(",")] if hosts or scheme == "sentinel" else []
        if not hosts and scheme != "sentinel":
            servers = [("localhost", _PORTS[scheme])]
        wrong = None in servers or "#" in place
        if scheme == "sentinel" and (wrong or not master or not re.fullmatch(r"[0-9]{0,9}", path)):
            raise SettingsError(_SENTINEL_FORM)
        if wrong or (len(servers) > 1 and scheme != "sentinel"):
            raise SettingsError(_FORM)
        if not re.fullmatch(r"[0-9]{0,9}", path):
            # redis-py would read another word as 0.
            raise SettingsError("LAUNCH_REDIS_URL must end with the number of a database, as in redis://HOST:PORT/0")
        return cls(
            scheme,
            tuple(server for server in servers if server),
            int(path or 0),
            unquote(username),
            unquote(password),
            unquote(master),
            _tls(scheme, query),
        )

    @property
    def shown(self) -> str:
        """The URL without user, password and options."""
        login = "***@" if self.password else ""
        path = f"{self.master}/{self.db}" if self.master else str(self.db)
        return f"{self.scheme}://{login}{','.join(map(_written, self.servers))}/{path}"

    def for_kombu(self) -> str:
        """The same server; one URL for each sentinel, whose master's name is a transport option there."""
        login = f"{quote(self.username, safe='')}:{quote(self.password, safe='')}@" if self.password else ""
        return ";".join(f"{self.scheme}://{login}{_written(server)}/{self.db}" for server in self.servers)


def mask_url(url: str) -> str:
    """The URL without user name, password and values of options, even where it is no sound URL."""
    try:
        return RedisUrl.parse(url).shown
    except SettingsError:
        scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
        _, at, place = rest.rpartition("@")
        place = re.sub(r"(?<=[?&])([^=&#?]*)=[^&#]*", r"\1=***", place)
        return f"{scheme}{separator}{'***@' if at else ''}{place}"


def _server(text: str, usual_port: int) -> tuple[str, int] | None:
    address = _ADDRESS_6.match(text)
    host, port = (address[1], text[address.end() :]) if address else (text, "")
    if address is None and ":" in text:
        host, _, port = text.rpartition(":")
        port = f":{port}"
    if address is None and not _HOST.fullmatch(host):
        return None
    if not port:
        return host, usual_port
    if not re.fullmatch(r":[0-9]{1,5}", port) or not 0 < int(port[1:]) < 65536:
        return None
    return host, int(port[1:])


def _written(server: tuple[str, int]) -> str:
    host, port = server
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _tls(scheme: str, query: str) -> dict[str, Any]:
    """The options of the URL, of which all are about TLS."""
    given: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS:
            shown = name if re.fullmatch(r"[a-z_]{1,40}", name) else "of this name"
            hint = "; the database is the number at its end, as in redis://HOST:PORT/1" if name == "db" else ""
            raise SettingsError(f"LAUNCH_REDIS_URL has no option {shown}; it may have: {', '.join(_OPTIONS)}{hint}")
        given[name] = value
    if scheme != "rediss":
        if given:
            raise SettingsError("LAUNCH_REDIS_URL has options of TLS, which are for rediss:// only; leave them out")
        return {}
    # kombu's default does not verify the server's certificate.
    verifies = _VERIFIES.get(given.get("ssl_cert_reqs", "required").lower().removeprefix("cert_"))
    if verifies is None:
        raise SettingsError("ssl_cert_reqs in LAUNCH_REDIS_URL must be required, optional or none")
    checks = _SWITCH.get(given.get("ssl_check_hostname", "true").lower())
    if checks is None:
        raise SettingsError("ssl_check_hostname in LAUNCH_REDIS_URL must be true or false")
    files = {name: given[name] for name in _FILES if name in given}
    for name, path in files.items():
        if not os.access(path, os.R_OK):
            raise SettingsError(f"{name} in LAUNCH_REDIS_URL is not a file that can be read here: {path[:200]!r}")
    return {"ssl_cert_reqs": verifies, "ssl_check_hostname": checks and verifies != "none", **files}
