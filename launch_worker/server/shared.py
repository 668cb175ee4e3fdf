"""Holds what all requests of one server share: settings, Redis, the database, the people, the way in for loopback."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from launch_worker.api.redis_transport import RedisTransport
from launch_worker.database.audit import Audit
from launch_worker.database.database import Database
from launch_worker.people.claims import ProxyRules
from launch_worker.people.directory import Directory
from launch_worker.server.address import Address
from launch_worker.server.celery_page import CeleryPage
from launch_worker.server.events import Events
from launch_worker.server.kept import Kept
from launch_worker.server.live_logs import LiveLogs
from launch_worker.server.news import News
from launch_worker.server.oidc import Provider
from launch_worker.settings import Settings


@dataclass
class Shared:
    """One server's own things. Its connection is thread-safe."""

    settings: Settings
    address: Address
    #: Key of the printed address, which lets its user in; '' where the server is not on loopback.
    loopback_key: str
    #: Way to the launch system for what only reads: where LAUNCH_REDIS_READ_URL is set, Redis lets it write nothing.
    connection: RedisTransport
    #: Way to the launch system for what acts, as nobody; `transport` is for a person. The same one without the setting.
    acting: RedisTransport
    database: Database
    audit: Audit
    directory: Directory
    proxy_rules: ProxyRules
    #: News of runs, for streams.
    news: News
    #: All that changes, for streams of events.
    events: Events
    #: Newest output of the attempts at whose lines somebody looks.
    live_logs: LiveLogs = field(default_factory=LiveLogs)
    #: Identity provider by which people log in; None for a server without.
    provider: Provider | None = None
    #: Set when the server is asked to stop: streams end, and nothing that waits goes on.
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    #: What all open pages need, for a second.
    kept: Kept = field(default_factory=Kept)
    #: Celery's page; None for a server without.
    celery_page: CeleryPage | None = None

    def transport(self, actor: str) -> RedisTransport:
        """The way to the launch system for a person who acts."""
        return self.acting.acting(actor)


def shared_of(request: Request) -> Shared:
    """The server's own things, for a route."""
    shared: Shared = request.app.state.shared
    return shared


SharedHere = Annotated[Shared, Depends(shared_of)]
