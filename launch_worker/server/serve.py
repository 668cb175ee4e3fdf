"""Runs the application by uvicorn in this process until it is asked to stop."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from launch_worker.errors import ArchiveError, SettingsError
from launch_worker.server.address import Address
from launch_worker.server.application import make_application, prepare
from launch_worker.server.loopback import loopback_key, with_key
from launch_worker.server.shared import Shared
from launch_worker.settings import Settings
from launch_worker.untrusted.log_line import Seldom

log = logging.getLogger("launch_worker.server")

#: Seconds for the head of a request, from its connection's begin or the answer before.
HEAD_S = 30.0
#: Descriptors of the process that are not for connections but for files, the database and Redis.
_OWN_FILES = 200
#: Descriptors that the server asks for, where it may have fewer.
_FILES = 8192
#: Seconds for what is being answered when the server is asked to stop.
_STOP_S = 10
_say_crowded = Seldom(log.warning)


def serve(settings: Settings, address: Address, *, ready: Callable[[str, str], None], with_celery_page: bool) -> None:
    """Serve at an address until SIGTERM or SIGINT. Raises SettingsError.

    `ready` gets the URL for people, and the one that makes the first admin, '' where there is one.
    """
    with address.listen() as listening:
        address = Address(address.host, listening.getsockname()[1])
        key = loopback_key(settings.work_dir) if address.is_loopback else ""
        application = make_application(
            settings, address=address, loopback_key=key, with_archive=True, with_celery_page=with_celery_page
        )
        shared: Shared = application.state.shared
        prepare(shared)
        PatientConnection.most = _most_connections()
        secret = _first_secret(shared)
        if secret and not (address.is_loopback or shared.proxy_rules.networks or shared.provider):
            raise SettingsError(
                f"the server does not listen at {address.host} before there is an admin who can log in; add one "
                "with: launch-worker users add NAME --admin; or let it listen on loopback: --address 127.0.0.1:7600"
            )
        url = with_key(address.url, key) if key else address.url
        has_link = bool(secret) and settings.takes_passwords
        first = f"{address.url}/first-admin?secret={secret}" if has_link else ""
        HttpServer(application, ready=lambda: ready(url, first)).run([listening])


def _most_connections() -> int:
    """How many connections this process has descriptors for, after it has asked for more of these."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return max(50, (_FILES if soft == resource.RLIM_INFINITY else soft) - _OWN_FILES)


def _first_secret(shared: Shared) -> str:
    """The secret that makes the first admin; '' where there is one, or where the database does not say."""
    try:
        return shared.directory.first_secret() or ""
    except ArchiveError:
        # Nobody comes in without the database, and it may be back soon.
        return ""


class PatientConnection(H11Protocol):
    """uvicorn's connection, which ends where a client does not get the head of a request done.

    uvicorn itself waits for ever, so that a few thousand such clients would leave no descriptors for others.
    """

    #: Connections at once, at most: with no descriptor left the server could not even read its database.
    most = 500
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most:
            _say_crowded("server.crowded connections=%d: new ones are cut", self.most)
            transport.abort()
            return
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_watching()

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_watching()
        elif self._patience is None:
            self._patience = self.loop.call_later(HEAD_S, self._give_up)

    def _stop_watching(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self) -> None:
        self._patience = None
        self.transport.close()


class HttpServer(uvicorn.Server):
    """uvicorn's server, which says when it is ready, and lets streams end when it is asked to stop."""

    def __init__(self, application: FastAPI, *, ready: Callable[[], None] = lambda: None) -> None:
        config = uvicorn.Config(
            application,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            http=PatientConnection,
            timeout_graceful_shutdown=_STOP_S,
        )
        super().__init__(config)
        self._shared: Shared = application.state.shared
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # A second Ctrl-C ends it without waiting.
        super().handle_exit(sig, frame)
        self._shared.stopping.set()
