"""Sends and receives the descriptors that travel beside the lines of a conversation. Standard library only."""

from __future__ import annotations

import array
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

#: Bytes read at once; a larger buffer is asked of the kernel each time, which costs more than a second call.
_RECV_BYTES = 1 << 16
_FD_BYTES = struct.calcsize("i")
#: Stands for a descriptor that came along while this process had too many open files.
NOT_BROUGHT = -1
#: Descriptors sent in one message; the kernel takes 253.
_FDS_AT_ONCE = 250


def receive(peer: socket.socket, brought: list[int]) -> bytes:
    """As `recv`; descriptors that came along are added to `brought`. Raises OSError."""
    data, extra, flags, _ = peer.recvmsg(_RECV_BYTES, socket.CMSG_SPACE(_FD_BYTES), socket.MSG_CMSG_CLOEXEC)
    for _, _, fds in extra:
        brought += array.array("i", fds[: len(fds) // _FD_BYTES * _FD_BYTES])
    if flags & socket.MSG_CTRUNC:
        brought.append(NOT_BROUGHT)
    return data


def send_all(peer: socket.socket, data: bytes, fds: list[int]) -> None:
    """Send all descriptors, in their order, before the last byte of the data. Raises OSError."""
    while len(fds) > _FDS_AT_ONCE:
        socket.send_fds(peer, [data[:1]], fds[:_FDS_AT_ONCE])
        data, fds = data[1:], fds[_FDS_AT_ONCE:]
    sent = socket.send_fds(peer, [data], fds)
    peer.sendall(data[sent:])


@contextlib.contextmanager
def came_with(order: dict[str, Any], brought: list[int], *, is_channel: bool = False) -> Iterator[None]:
    """Put the descriptor that an order brings along into its `came`, and close it where the order does not take it.

    An order that fails uses up its descriptor too: the next order must not get it.
    """
    if not is_channel and not order.get("piped"):
        yield
        return
    order["came"] = came = brought[:1]
    del brought[:1]
    try:
        yield
    finally:
        for fd in came:
            if fd != NOT_BROUGHT:
                os.close(fd)


def pipe_in(came: list[int] | None) -> int:
    """Take the pipe that came with an order; the caller closes it. Raises OSError."""
    pipe = came.pop() if came else NOT_BROUGHT
    if pipe == NOT_BROUGHT:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return pipe
