"""Keeps the parts of a `dev` together: a process that starts them, and ends them when `dev` is gone.

`dev` itself stands in a terminal, and anything may end it. Its keeper is in a session of its own and holds the other
end of a socket: when that closes, however `dev` died, it ends the parts in their order. When the keeper dies itself,
the kernel kills them (`Stack`).
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from launch_worker.dev.folder import DataFolder
from launch_worker.dev.stack import Stack, StoppedError
from launch_worker.errors import LaunchError
from launch_worker.untrusted.text import read_json

#: Seconds between two looks whether a part has ended.
_TURN_S = 0.5
#: Orders to the keeper; each is one byte.
_STOP = b"s"
_KILL = b"k"


class Keeper:
    """The keeper as `dev` sees it. `start`, then `stop`, which may be called at any time after it."""

    def __init__(self, folder: DataFolder, *, queues: str, slots: int, web: bool, waits: bool) -> None:
        """The options are those of `Stack`."""
        self._folder = folder
        self._options: dict[str, Any] = {"queues": queues, "slots": slots, "web": web, "waits": waits}
        self._pid = 0
        #: Messages of the keeper; None once it has ended.
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._socket: socket.socket | None = None
        self._is_stopping = False

    def start(self, *, tell: Callable[[str], None], on_end: Callable[[], None]) -> dict[str, Any]:
        """Start everything; returns `redis_url`, `server_url` ('' for none), and `counts`: runs of before, by state.

        `tell` gets sentences for people. `on_end` is called, in another thread, when a part ends by itself from then
        on, and `wait` raises why. Raises LaunchError when it cannot be started.
        """
        self._socket, others = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        self._pid = os.fork()
        if not self._pid:
            self._socket.close()
            _become_keeper(others, self._folder, self._options)
        others.close()
        threading.Thread(target=self._listen, args=(self._socket, on_end), name="launch-keeper", daemon=True).start()
        while True:
            event = self._next()
            if "redis_url" in event:
                return event
            self._handle(event, tell)

    def wait(self) -> NoReturn:
        """Block until a part has ended by itself. Raises LaunchError, which tells why."""
        while True:
            self._handle(self._next(), lambda _: None)

    def kill(self) -> None:
        """Have the jobs ended at once; before or after `stop` was called, and from a signal's handler."""
        self._order(_KILL)

    def stop(self, *, tell: Callable[[str], None]) -> None:
        """End everything, and wait for it."""
        if not self._pid:
            return
        self._is_stopping = True
        self._order(_STOP)
        while (event := self._events.get()) is not None:
            with contextlib.suppress(LaunchError):
                self._handle(event, tell)
        os.waitpid(self._pid, 0)
        self._pid = 0

    def _order(self, word: bytes) -> None:
        with contextlib.suppress(OSError):
            if self._socket is not None:
                self._socket.send(word)

    def _next(self) -> dict[str, Any]:
        event = self._events.get()
        if event is None:
            self._events.put(None)
            raise LaunchError("the process that keeps the parts together has ended; they were killed")
        return event

    def _handle(self, event: dict[str, Any], tell: Callable[[str], None]) -> None:
        if "say" in event:
            tell(event["say"])
        elif "error" in event:
            raise LaunchError(event["error"])

    def _listen(self, keeper: socket.socket, on_end: Callable[[], None]) -> None:
        has_started = False
        # A keeper that ends with an order unread closes with an error.
        with contextlib.suppress(OSError), keeper.makefile("rb") as lines:
            for line in lines:
                event = read_json(line)
                self._events.put(event)
                has_started = has_started or "redis_url" in event
                if "error" in event and has_started and not self._is_stopping:
                    on_end()
        self._events.put(None)
        if has_started and not self._is_stopping:
            on_end()


def _become_keeper(talk: socket.socket, folder: DataFolder, options: dict[str, Any]) -> NoReturn:
    """The life of the keeper; in the forked process."""
    status = 1
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        orders = _Orders(talk)
        signal.signal(signal.SIGTERM, orders.on_signal)
        # The keeper prints nothing, and must not hold a terminal or pipe open.
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        _keep(orders, folder, options)
        status = 0
    except BaseException:  # noqa: BLE001
        orders.tell(error=f"the process that keeps the parts together failed: {traceback.format_exc()}")
    finally:
        os._exit(status)


class _Orders:
    """The keeper's end of the socket."""

    def __init__(self, talk: socket.socket) -> None:
        self._talk = talk
        self._is_stopping = False
        self._is_killing = False
        self._is_gone = False

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        self._is_stopping = True

    def look(self, timeout_s: float = 0.0) -> None:
        """Take the orders that have come, waiting for the first."""
        while not self._is_gone and select.select([self._talk], [], [], timeout_s)[0]:
            timeout_s = 0.0
            try:
                words = self._talk.recv(100)
            except OSError:
                words = b""
            self._is_gone = not words
            self._is_killing = self._is_killing or _KILL in words
            self._is_stopping = self._is_stopping or _STOP in words or self._is_gone

    def go_on(self) -> bool:
        self.look()
        return not self._is_stopping

    def is_killing(self) -> bool:
        self.look()
        return self._is_killing

    def tell(self, **event: object) -> None:
        # `dev` may have ended.
        with contextlib.suppress(OSError):
            self._talk.sendall(json.dumps(event).encode() + b"\n")


def _keep(orders: _Orders, folder: DataFolder, options: dict[str, Any]) -> None:
    try:
        folder.take(
            waits=lambda: orders.tell(say="an earlier launch-worker dev is stopping; this one starts after it"),
            go_on=orders.go_on,
        )
    except LaunchError as error:
        orders.tell(error=str(error))
        return
    stack = Stack(folder.path, is_kept=not folder.is_temporary, **options)
    try:
        stack.start(go_on=orders.go_on)
        folder.publish(pid=os.getpid(), redis_url=stack.redis.url, server_url=stack.server_url)
        orders.tell(redis_url=stack.redis.url, server_url=stack.server_url, counts=stack.counts())
        while orders.go_on():
            stack.check()
            orders.look(_TURN_S)
    except StoppedError:
        pass
    except LaunchError as error:
        orders.tell(error=str(error))
    finally:
        folder.withdraw()
        _stop(stack, orders)
        folder.leave()


def _stop(stack: Stack, orders: _Orders) -> None:
    running = stack.running()
    if running and not orders.is_killing():
        runs = "1 running run" if len(running) == 1 else f"{len(running)} running runs"
        orders.tell(say=f"{runs} may take {max(running.values()):g} s to end; Ctrl-C again kills")
    stack.stop(is_killed=lambda: "killed by a second Ctrl-C of launch-worker dev" if orders.is_killing() else "")
