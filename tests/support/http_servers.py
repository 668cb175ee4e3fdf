"""A real server of the API on loopback, in this process: uvicorn in a thread, and who speaks to it."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import httpx
from fastapi import FastAPI

from launch_worker.server.address import Address
from launch_worker.server.application import make_application, prepare
from launch_worker.server.serve import HttpServer
from launch_worker.server.shared import Shared
from launch_worker.settings import Settings
from tests.conftest import wait_until
from tests.support.archives import empty_sqlite

#: Key of loopback of the servers of tests.
KEY = "k" * 43


class TestServer:
    """One server that runs."""

    __test__ = False

    def __init__(self, application: FastAPI, address: Address, stop: Callable[[], None]) -> None:
        self.application = application
        #: Asks the server to stop, as SIGTERM does.
        self.stop = stop
        self.address = address
        self.url = address.url

    @property
    def shared(self) -> Shared:
        shared: Shared = self.application.state.shared
        return shared

    def client(self, token: str = KEY) -> httpx.Client:
        """A client that nobody's proxy is asked for; without a login for ''."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        # The certificates of the authorities take 20 ms to be read, and nothing here is https.
        return httpx.Client(base_url=self.url, headers=headers, trust_env=False, verify=False, timeout=30.0)


@contextmanager
def serving(
    redis_url: str,
    folder: Path,
    *,
    with_archive: bool = False,
    with_celery_page: bool = False,
    variables: Mapping[str, str] = MappingProxyType({}),
    **more: str,
) -> Iterator[TestServer]:
    """Run a server with these `LAUNCH_…` variables until the end of the block."""
    settings = Settings.from_env({"LAUNCH_WORK_DIR": str(folder), **variables, **more}, redis_url=redis_url)
    listening = Address("127.0.0.1", 0).listen()
    address = Address("127.0.0.1", listening.getsockname()[1])
    application = make_application(
        settings, address=address, loopback_key=KEY, with_archive=with_archive, with_celery_page=with_celery_page
    )
    file = application.state.shared.database.file
    if file is not None and not file.stat().st_size:
        file.write_bytes(empty_sqlite())
    prepare(application.state.shared)
    running = HttpServer(application)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(running.serve([listening])), name="test-server")
    thread.start()

    def stop() -> None:
        if thread.is_alive():
            loop.call_soon_threadsafe(running.handle_exit, signal.SIGTERM, None)

    try:
        if with_archive:
            # What happens from now on is in the change feed.
            wait_until(application.state.shared.acting.store.has_archive, what="the archive follows")
        yield TestServer(application, address, stop)
    finally:
        stop()
        thread.join()
        loop.close()
        listening.close()
