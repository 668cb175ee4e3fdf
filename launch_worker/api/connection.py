"""Holds the way to one launch system, which its runs, sweeps and queues share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launch_worker.errors import InputError
from launch_worker.settings import Settings

if TYPE_CHECKING:
    from launch_worker.api.redis_transport import RedisTransport
    from launch_worker.api.transport import Transport
    from launch_worker.store.store import Store


class Connection:
    """The base of `Api`'s parts: the transport, by which they do all that they do."""

    def __init__(
        self, url: str | None = None, *, settings: Settings | None = None, transport: Transport | None = None
    ) -> None:
        self.transport = transport or _transport(url, settings)

    @property
    def settings(self) -> Settings:
        return self.transport.settings

    @property
    def actor(self) -> str:
        """Who acts through this connection, for people."""
        return self.transport.actor

    @property
    def direct(self) -> RedisTransport:
        """The transport where it is Redis', for what only Redis' neighbours do. Raises InputError for another one."""
        from launch_worker.api.redis_transport import RedisTransport

        if not isinstance(self.transport, RedisTransport):
            raise InputError("this works on Redis itself, and not through a server; give the URL of Redis with --api")
        return self.transport

    @property
    def store(self) -> Store:
        """The store of Redis, for the parts of a launch system; errors as `direct`."""
        return self.direct.store


def _transport(url: str | None, settings: Settings | None) -> Transport:
    settings = settings or Settings.of_client(url=url)
    if settings.api_url:
        from launch_worker.api.http_transport import HttpTransport

        return HttpTransport(settings)
    from launch_worker.api.redis_transport import RedisTransport

    return RedisTransport(settings=settings)
