"""`sentinel://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]…]/MASTER[/DB]`: a Redis whose master the sentinels name."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from launch_worker.errors import SettingsError

SCHEME = "sentinel://"
_PORT = 26379


@dataclass(frozen=True)
class SentinelUrl:
    """User and password are those of the Redis servers; the sentinels themselves are asked without."""

    sentinels: tuple[tuple[str, int], ...]
    master: str
    db: int = 0
    username: str = ""
    password: str = field(default="", repr=False)

    @classmethod
    def parse(cls, url: str) -> SentinelUrl:
        """Raises SettingsError, which does not show the password."""
        login, _, place = url.removeprefix(SCHEME).rpartition("@")
        username, _, password = login.partition(":")
        hosts, _, path = place.partition("/")
        master, _, db = path.partition("/")
        sentinels = [_host(part) for part in hosts.split(",")]
        if not master or (db and not (db.isascii() and db.isdigit())) or not all(sentinels):
            raise SettingsError(
                "a sentinel URL must be written as sentinel://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]…]/MASTER[/DB], "
                "where MASTER is the name that the sentinels know the servers by"
            )
        return cls(
            tuple(sentinel for sentinel in sentinels if sentinel),
            unquote(master),
            int(db or 0),
            unquote(username),
            unquote(password),
        )

    def for_kombu(self) -> str:
        """One URL for each sentinel; the master's name is a transport option there."""
        login = f"{quote(self.username, safe='')}:{quote(self.password, safe='')}@" if self.password else ""
        return ";".join(f"{SCHEME}{login}{host}:{port}/{self.db}" for host, port in self.sentinels)


def _host(text: str) -> tuple[str, int] | None:
    # IPv6 addresses have colons of their own, and would be in brackets.
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = text, str(_PORT)
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        return None
    return host.removeprefix("[").removesuffix("]"), int(port)
