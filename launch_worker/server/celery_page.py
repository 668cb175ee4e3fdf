"""Keeps Flower, Celery's own page, as a child process: starts it again when it ends, ends it with the server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from pathlib import Path

import httpx

from launch_worker.runners.process.own_process import tie_to
from launch_worker.settings import Settings

log = logging.getLogger("launch_worker.server")

#: The first part of the page's paths.
PREFIX = "celery"
#: Seconds until it is started again, first and at most, and of a life after which the pause is the first one again.
_PAUSE_S = 1.0
_PAUSE_CAP_S = 60.0
_GOOD_LIFE_S = 60.0
#: Seconds to end by itself, to listen after a start, and to answer.
_END_S = 3.0
_START_S = 10.0
_ANSWER_S = 60.0
_LINE_BYTES = 1 << 16


class CeleryPage:
    """The child process. It listens on a socket that only this user reaches, and wants a password that nobody is told.

    `start` and `stop` are called in the event loop, `client` is for its requests.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = Path(tempfile.mkdtemp(prefix="launch-celery-"))
        self._socket = self._folder / "socket"
        self._password = secrets.token_urlsafe(32)
        self._process: Process | None = None
        self._keeping: asyncio.Task[None] | None = None
        self.client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(self._socket), limits=httpx.Limits(max_connections=50)),
            base_url="http://celery",
            auth=("server", self._password),
            timeout=httpx.Timeout(_ANSWER_S, connect=2.0, pool=5.0),
            follow_redirects=False,
        )

    @property
    def pid(self) -> int | None:
        """The process id while it lives."""
        return self._process.pid if self._process and self._process.returncode is None else None

    def start(self) -> None:
        self._keeping = asyncio.create_task(self._keep(), name="celery-page")

    async def wait_until_up(self) -> None:
        """Wait until it listens. Raises TimeoutError when that takes longer than a person waits."""
        async with asyncio.timeout(_START_S):
            while not self._socket.exists():
                await asyncio.sleep(0.05)

    async def stop(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeping
        await self.client.aclose()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _keep(self) -> None:
        pause_s = _PAUSE_S
        while True:
            began = time.monotonic()
            self._socket.unlink(missing_ok=True)
            process = self._process = await self._spawn()
            try:
                await self._log_lines(process)
                code = await process.wait()
            finally:
                await _end(process)
            if time.monotonic() - began > _GOOD_LIFE_S:
                pause_s = _PAUSE_S
            log.warning("celery_page.ended code=%d again_in_s=%.0f", code, pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_CAP_S)

    async def _spawn(self) -> Process:
        # A file of options in the current folder is not read: the file named here is.
        options = self._folder / "flowerconfig.py"
        options.touch()
        env = {key: value for key, value in os.environ.items() if not key.startswith("FLOWER_")}
        env.pop("CELERY_BROKER_URL", None)
        env |= {
            "LAUNCH_REDIS_URL": self._settings.redis_url,
            # Not on the command line, which every user can read.
            "FLOWER_BASIC_AUTH": f"server:{self._password}",
            "FLOWER_COOKIE_SECRET": secrets.token_urlsafe(32),
        }
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "celery", "--quiet", "-A", "launch_worker", "flower"),
            *(f"--unix_socket={self._socket}", f"--url_prefix={PREFIX}", f"--conf={options}", "--logging=warning"),
            env=env,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            limit=_LINE_BYTES,
            # A terminal's Ctrl-C reaches the server, which ends its child.
            start_new_session=True,
            preexec_fn=tie_to(os.getpid()),
        )

    async def _log_lines(self, process: Process) -> None:
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:
                # A line longer than the buffer; the buffer is empty again.
                continue
            if not line:
                return
            log.info("celery_page.said %s", line.decode(errors="replace").rstrip())


async def _end(process: Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _END_S)
    except TimeoutError:
        process.kill()
        await process.wait()
