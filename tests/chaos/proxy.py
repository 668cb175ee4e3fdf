"""The network between a worker and a server (Redis, a container engine): a proxy on loopback that can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")

#: Where something listens: a port of loopback, or the path of a unix socket.
Address: TypeAlias = int | Path

_RESET = struct.pack("ii", 1, 0)


class Network:
    """One thread that does the forwarding of all proxies."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chaos-network", daemon=True)
        self._thread.start()
        self._proxies: list[Proxy] = []

    def open(self, upstream: Callable[[], Address], *, path: Path | None = None) -> Proxy:
        """A proxy to what `upstream` names at each new connection; it listens at a free port, or at `path`."""
        proxy = Proxy(self, upstream)
        self.do(proxy.listen(path))
        self._proxies.append(proxy)
        return proxy

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10.0)

    def close(self) -> None:
        for proxy in self._proxies:
            self.do(proxy.shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10.0)
        self._loop.run_until_complete(_settle())
        self._loop.close()


class Proxy:
    """Cut in one of four ways:

    refuse: every connection is reset, and every new one;
    hang:   nothing passes, and what was sent meanwhile arrives when it is healed, as TCP does it;
    lose:   nothing passes, and every connection is reset when it is healed;
    mute:   requests pass and are carried out, their answers are thrown away; every connection is reset when it is
            healed.
    """

    def __init__(self, network: Network, upstream: Callable[[], Address]) -> None:
        self._network = network
        self._upstream = upstream
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server
        self._flowing: asyncio.Event
        self.how = ""
        self.port = 0
        #: How many connections were made to it.
        self.accepted = 0

    def cut(self, how: str) -> None:
        self._network.do(self._cut(how))

    def heal(self) -> None:
        self._network.do(self._heal())

    async def listen(self, path: Path | None) -> None:
        self._flowing = asyncio.Event()
        self._flowing.set()
        if path is not None:
            self._server = await asyncio.start_unix_server(self._serve, path)
            return
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def shut(self) -> None:
        self.how = "refuse"
        self._server.close()
        self._reset_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _cut(self, how: str) -> None:
        self.how = how
        if how != "mute":
            self._flowing.clear()
        if how == "refuse":
            self._reset_all()

    async def _heal(self) -> None:
        if self.how in ("lose", "mute"):
            self._reset_all()
        self.how = ""
        self._flowing.set()

    def _reset_all(self) -> None:
        for writer in list(self._writers):
            _reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.accepted += 1
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            await self._forward(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # either side is gone, or the harness ends
        finally:
            _reset(writer)
            self._writers.discard(writer)
            self._tasks.discard(task)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.how == "refuse":
            return
        await self._flowing.wait()
        up_reader, up_writer = await _connect(self._upstream())
        # With nobody listening there, a connection may come to be with itself.
        if up_writer.get_extra_info("sockname") == up_writer.get_extra_info("peername"):
            _reset(up_writer)
            return
        self._writers.add(up_writer)
        try:
            await asyncio.gather(self._pump(reader, up_writer), self._pump(up_reader, writer, is_answer=True))
        finally:
            self._writers.discard(up_writer)
            with contextlib.suppress(OSError):
                up_writer.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool = False
    ) -> None:
        while True:
            data = await reader.read(1 << 16)
            await self._flowing.wait()
            if not data:
                writer.close()
                return
            if is_answer and self.how == "mute":
                continue
            writer.write(data)
            await writer.drain()


async def _settle() -> None:
    """Return when nothing goes on in this loop: a connection that was accepted at the last moment is reset too."""
    for _ in range(3):
        # It takes some turns of the loop until what was accepted has its task, and what was reset is closed.
        for _ in range(20):
            await asyncio.sleep(0)
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)


async def _connect(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(address, Path):
        return await asyncio.open_unix_connection(address)
    return await asyncio.open_connection("127.0.0.1", address)


def _reset(writer: asyncio.StreamWriter) -> None:
    connection: socket.socket | None = writer.get_extra_info("socket")
    if connection is not None and connection.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
