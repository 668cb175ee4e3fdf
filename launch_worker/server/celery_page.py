"""Keeps Flower, Celery's own page, as a child process on a socket that only the server reaches."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
from pathlib import Path

import httpx

from launch_worker.server.child import Child
from launch_worker.settings import Settings

#: The first part of the page's paths.
PREFIX = "celery"
#: Seconds to end by itself, to listen after a start, and to answer.
_END_S = 3.0
_START_S = 10.0
_ANSWER_S = 60.0


class CeleryPage:
    """The child process. It listens on a socket that only this user reaches, and wants a password that nobody is told.

    `start` and `stop` are called in the event loop, `client` is for its requests.
    """

    def __init__(self, settings: Settings) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="launch-celery-"))
        self._socket = self._folder / "socket"
        password = secrets.token_urlsafe(32)
        # A file of options in the current folder is not read: the file named here is.
        options = self._folder / "flowerconfig.py"
        options.touch()
        env = {key: value for key, value in os.environ.items() if not key.startswith("FLOWER_")}
        env.pop("CELERY_BROKER_URL", None)
        env |= {
            "LAUNCH_REDIS_URL": settings.redis_url,
            # Not on the command line, which every user can read.
            "FLOWER_BASIC_AUTH": f"server:{password}",
            "FLOWER_COOKIE_SECRET": secrets.token_urlsafe(32),
        }
        self._child = Child(
            "celery_page",
            [
                *("-m", "celery", "--quiet", "-A", "launch_worker", "flower", f"--unix_socket={self._socket}"),
                *(f"--url_prefix={PREFIX}", f"--conf={options}", "--logging=warning"),
            ],
            env,
            end_s=_END_S,
            has_own_log=False,
            before_start=lambda: self._socket.unlink(missing_ok=True),
        )
        self.client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(self._socket), limits=httpx.Limits(max_connections=50)),
            base_url="http://celery",
            auth=("server", password),
            timeout=httpx.Timeout(_ANSWER_S, connect=2.0, pool=5.0),
            follow_redirects=False,
        )

    @property
    def pid(self) -> int | None:
        """The process id while it lives."""
        return self._child.pid

    def start(self) -> None:
        self._child.start()

    async def wait_until_up(self) -> None:
        """Wait until it listens. Raises TimeoutError when that takes longer than a person waits."""
        async with asyncio.timeout(_START_S):
            while not self._socket.exists():
                await asyncio.sleep(0.05)

    async def stop(self) -> None:
        await self._child.stop()
        await self.client.aclose()
        shutil.rmtree(self._folder, ignore_errors=True)
