"""Defines the two ends of a direct channel, through which one thread of the worker orders jobs and reads the answers.

No thread is in between. The protocol's word for a channel is `lane`. Standard library only: the guard has one end.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence
from socket import SHUT_RDWR
from typing import Any

from launch_worker.runners.process.descriptors import NOT_BROUGHT, receive
from launch_worker.runners.process.protocol import decode

#: Seconds after which a guard that does not read its orders is replaced.
SEND_TIMEOUT_S = 10
#: Bytes of an answer read at once.
_ANSWER_BYTES = 1 << 14
#: Seconds, the shortest timeout of a socket; 0 would make the socket non-blocking.
LEAST_TIMEOUT_S = 0.001


class DirectChannel:
    """The worker's end of a channel to one guard."""

    def __init__(self, socket: socket.socket, generation: int) -> None:
        self.socket = socket
        #: Number of the guard that the channel leads to, among the guards of its runner.
        self.generation = generation
        #: Seconds. A socket with a timeout waits by poll(); a plain recv() would also wake when the guard takes the
        #: order.
        self._timeout_s = 0.0
        socket.setblocking(False)

    def order(self, line: bytes, fds: Sequence[int]) -> None:
        """Write one order. Raises OSError."""
        # `write`, because `send` would first look whether there is room.
        sent = socket.send_fds(self.socket, [line], fds) if fds else os.write(self.socket.fileno(), line)
        if sent < len(line):
            self._set_timeout(SEND_TIMEOUT_S)
            try:
                self.socket.sendall(line[sent:])
            except TimeoutError:
                raise BrokenPipeError from None

    def answer(self, *, timeout_s: float) -> dict[str, Any] | None:
        """Wait for the guard's answer; None when the guard is gone.

        Raises TimeoutError; the guard answers through its worker's main socket from then on.
        """
        self._set_timeout(max(timeout_s, LEAST_TIMEOUT_S))
        try:
            answer = self._receive()
        except TimeoutError:
            self.socket.shutdown(socket.SHUT_RD)
            answer = self._receive()  # an answer of the last moment
            if not answer:
                raise
        except OSError:
            return None
        return decode(answer) if answer.endswith(b"\n") else None

    def hang_up(self) -> None:
        """Have a thread that waits for an answer wait no longer.

        The guard is dead, but a process that it was just starting has its end of the channel too, until its exec.
        """
        with contextlib.suppress(OSError):
            self.socket.shutdown(SHUT_RDWR)

    def close(self) -> None:
        self.socket.close()

    def _set_timeout(self, timeout_s: float) -> None:
        if timeout_s != self._timeout_s:
            self.socket.settimeout(timeout_s)
            self._timeout_s = timeout_s

    def _receive(self) -> bytes:
        answer = self.socket.recv(_ANSWER_BYTES)
        while answer and not answer.endswith(b"\n") and (more := self.socket.recv(_ANSWER_BYTES)):
            answer += more
        return answer


class DirectChannelEnd:
    """The guard's end of a channel."""

    def __init__(self, socket: socket.socket) -> None:
        socket.setblocking(False)
        self.socket = socket
        self._incoming = b""
        #: Pipes that came with orders that were not yet obeyed.
        self.brought: list[int] = []

    def receive(self) -> list[bytes] | None:
        """Read all that has arrived; the complete lines of it, or None when the worker's end is closed."""
        more = True
        while more:
            try:
                data = receive(self.socket, self.brought)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                return None
            self._incoming += data
            more = not data.endswith(b"\n")
        *lines, self._incoming = self._incoming.split(b"\n")
        return lines

    def send(self, line: bytes) -> bool:
        """Answer an order; False where the thread does not wait here any more."""
        try:
            self.socket.send(line)
        except OSError:
            return False
        return True

    def close(self) -> None:
        self.socket.close()
        for pipe in self.brought:
            if pipe != NOT_BROUGHT:
                os.close(pipe)
