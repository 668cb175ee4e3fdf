"""Keeps a program as a child process of the server: starts it again when it ends, ends it with the server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Callable, Mapping, Sequence

from launch_worker.runners.process.own_process import tie_to

log = logging.getLogger("launch_worker.server")

#: Seconds until it is started again, first and at most, and of a life after which the pause is the first one again.
_PAUSE_S = 1.0
_PAUSE_CAP_S = 60.0
_GOOD_LIFE_S = 60.0
_LINE_BYTES = 1 << 16


class Child:
    """One program of this Python. `start` and `stop` are called in the event loop.

    It ends with the server, however that one ends: the kernel kills it with the thread that started it.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        env: Mapping[str, str],
        *,
        end_s: float,
        has_own_log: bool,
        before_start: Callable[[], None] = lambda: None,
    ) -> None:
        """`end_s`: seconds to end by itself. `has_own_log`: its lines are log lines, which need none around them."""
        self.name = name
        self._arguments = arguments
        self._env = env
        self._end_s = end_s
        self._has_own_log = has_own_log
        self._before_start = before_start
        self._process: Process | None = None
        self._keeping: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it lives."""
        return self._process.pid if self._process and self._process.returncode is None else None

    def start(self) -> None:
        self._keeping = asyncio.create_task(self._keep(), name=self.name)

    async def stop(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeping

    async def _keep(self) -> None:
        pause_s = _PAUSE_S
        while True:
            began = time.monotonic()
            self._before_start()
            process = self._process = await self._spawn()
            try:
                await self._log_lines(process)
                code = await process.wait()
            finally:
                await self._end(process)
            if time.monotonic() - began > _GOOD_LIFE_S:
                pause_s = _PAUSE_S
            log.warning("%s.ended code=%d again_in_s=%.0f", self.name, code, pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_CAP_S)

    async def _spawn(self) -> Process:
        return await asyncio.create_subprocess_exec(
            # -P: no module of the current folder is imported.
            *(sys.executable, "-P", *self._arguments),
            env=self._env,
            stdin=DEVNULL,
            stdout=None if self._has_own_log else PIPE,
            stderr=None if self._has_own_log else STDOUT,
            limit=_LINE_BYTES,
            # A terminal's Ctrl-C reaches the server, which ends its child.
            start_new_session=True,
            preexec_fn=tie_to(os.getpid()),
        )

    async def _log_lines(self, process: Process) -> None:
        while process.stdout is not None:
            try:
                line = await process.stdout.readline()
            except ValueError:
                # A line longer than the buffer; the buffer is empty again.
                continue
            if not line:
                return
            log.info("%s.said %s", self.name, line.decode(errors="replace").rstrip())

    async def _end(self, process: Process) -> None:
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), self._end_s)
        except TimeoutError:
            process.kill()
            await process.wait()
