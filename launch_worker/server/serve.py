"""Runs the application by uvicorn in this process until it is asked to stop."""

from __future__ import annotations

import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from launch_worker.errors import ArchiveError, SettingsError
from launch_worker.server.address import Address
from launch_worker.server.application import make_application, prepare
from launch_worker.server.loopback import loopback_key, with_key
from launch_worker.server.shared import Shared
from launch_worker.settings import Settings

#: Seconds for what is being answered when the server is asked to stop.
_STOP_S = 10


def serve(settings: Settings, address: Address, *, ready: Callable[[str], None], with_celery_page: bool) -> None:
    """Serve at an address until SIGTERM or SIGINT; `ready` gets the URL for people. Raises SettingsError."""
    with address.listen() as listening:
        address = Address(address.host, listening.getsockname()[1])
        key = loopback_key(settings.work_dir) if address.is_loopback else ""
        application = make_application(
            settings, address=address, loopback_key=key, with_archive=True, with_celery_page=with_celery_page
        )
        shared: Shared = application.state.shared
        prepare(shared)
        if not address.is_loopback:
            _check_login(shared)
        url = with_key(address.url, key) if key else address.url
        HttpServer(application, ready=lambda: ready(url)).run([listening])


def _check_login(shared: Shared) -> None:
    """Raises SettingsError where nobody could log in as an admin: then the server has not been set up."""
    try:
        is_set_up = bool(shared.proxy_rules.networks) or shared.directory.first_secret() is None
    except ArchiveError:
        # Nobody comes in without the database, and it may be back soon.
        return
    if not is_set_up:
        raise SettingsError(
            f"the server does not listen at {shared.address.host} before there is an admin who can log in; add one "
            "with: launch-worker users add NAME --admin; or let it listen on loopback: --address 127.0.0.1:7600"
        )


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
