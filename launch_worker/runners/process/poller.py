"""Waits, for the guard, for descriptors, signals and the next deadline. Standard library only."""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal

from launch_worker.clock import boot_time_s

#: Seconds of the longest wait; the kernel refuses more than 24 days.
_LONGEST_WAIT_S = 3600.0
#: Number of ready descriptors served in one turn.
_EVENTS = 64


class Poller:
    """An epoll that knows for what each descriptor is registered, and the time of the next deadline."""

    def __init__(self) -> None:
        #: Boot time before which no deadline of a job or a container lies.
        self.due = math.inf
        self._epoll = select.epoll()
        #: Event masks by descriptor.
        self._masks: dict[int, int] = {}
        self._wake_read, wake_write = os.pipe()
        for fd in (self._wake_read, wake_write):
            os.set_blocking(fd, False)
        self.listen(self._wake_read, select.EPOLLIN)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)

    def listen(self, fd: int, mask: int) -> None:
        """Wait for these events of a descriptor and no others; call it with 0 before the descriptor is closed."""
        known = self._masks.get(fd, 0)
        if mask == known:
            return
        if not mask:
            del self._masks[fd]
            self._epoll.unregister(fd)
            return
        self._masks[fd] = mask
        if known:
            self._epoll.modify(fd, mask)
        else:
            self._epoll.register(fd, mask)

    def be_due(self, at: float) -> None:
        """Wait no longer than until this boot time."""
        self.due = min(at, self.due)

    def wait(self, until: float) -> tuple[list[int], bool]:
        """Wait for an event, a signal or the boot time; the ready descriptors, and whether a signal came."""
        timeout = min(max(0.0, until - boot_time_s()), _LONGEST_WAIT_S)
        ready = [fd for fd, _ in self._epoll.poll(timeout, _EVENTS)]
        is_signalled = self._wake_read in ready
        if is_signalled:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)
        return ready, is_signalled
