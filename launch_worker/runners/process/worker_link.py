"""Speaks with the worker for the guard: main socket, direct channels and pulse. Standard library only."""

from __future__ import annotations

import math
import os
import select
import socket
from collections.abc import Callable
from typing import Any

from launch_worker.runners.process.descriptors import receive
from launch_worker.runners.process.direct_channel import DirectChannelEnd
from launch_worker.runners.process.poller import Poller
from launch_worker.runners.process.protocol import Event, encode
from launch_worker.runners.process.pulse import Pulse, WorkerProcess


class WorkerLink:
    """The conversation with one worker, and with the next one after a takeover.

    `takeover` is the socket at which the next worker asks for the jobs. `on_gone` is called when the worker has died or
    has ended the conversation.
    """

    def __init__(
        self, control: socket.socket, takeover: socket.socket | None, poller: Poller, *, on_gone: Callable[[], None]
    ) -> None:
        self.control = control
        self.takeover = takeover
        for each in (control, takeover):
            if each is not None:
                each.setblocking(False)
        self._poller = poller
        self._on_gone = on_gone
        self._process = WorkerProcess(os.getppid())
        #: None for a worker of an older release, which does not answer when it is asked.
        self._pulse: Pulse | None = None
        #: No more orders are taken.
        self.is_gone = False
        #: The jobs stay when the worker goes.
        self.is_detached = False
        #: The main socket is closed: nothing more is read or sent.
        self.is_cut_off = False
        self._incoming = b""
        self._outgoing = b""
        #: Descriptors that came with orders that were not yet obeyed.
        self.brought: list[int] = []
        #: Direct channels by descriptor.
        self.channels: dict[int, DirectChannelEnd] = {}
        self._listen()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_over(self) -> bool:
        """Nothing more will be read, and all has been sent that can be."""
        return self.is_gone and (self.is_cut_off or not self._outgoing)

    # -- sending ---------------------------------------------------------------------------------------------------

    def tell(self, event: Event, key: str, **facts: Any) -> None:
        if not self.is_cut_off:
            self._outgoing += encode({"on": event, "key": key, **facts})
            self.flush()

    def answer(self, channel: DirectChannelEnd | None, event: Event, key: str, **facts: Any) -> None:
        """Answer an order through the channel that it came from, if its thread still waits there."""
        if channel is None or not channel.send(encode({"on": event, "key": key, **facts})):
            self.tell(event, key, **facts)

    def flush(self) -> None:
        # Never blocks: a frozen worker must not freeze its guard.
        try:
            while self._outgoing:
                self._outgoing = self._outgoing[self.control.send(self._outgoing) :]
            if self.is_detached and self.is_gone:
                self._cut_off()
                self.control.close()
        except BlockingIOError:
            pass
        except OSError:
            self._cut_off()
            self._outgoing = b""
            self.vanish()
        self._listen()

    def _cut_off(self) -> None:
        self._poller.listen(self.control.fileno(), 0)
        self.is_cut_off = True

    # -- receiving -------------------------------------------------------------------------------------------------

    def is_ready(self, ready: list[int]) -> bool:
        """Whether the main socket is among the descriptors."""
        return not self.is_cut_off and self.control.fileno() in ready

    def receive(self) -> bool:
        """Read from the main socket; False when nothing came."""
        try:
            data = receive(self.control, self.brought)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self.vanish()
            return False
        self.note_word()
        self._incoming += data
        return True

    def take_lines(self) -> list[bytes]:
        """The complete lines of what was read."""
        *lines, self._incoming = self._incoming.split(b"\n")
        return lines

    def receive_on(self, channel: DirectChannelEnd) -> list[bytes]:
        """The complete lines that lie in a channel; one whose other end is closed is closed."""
        lines = channel.receive()
        if lines is None:
            self._close(channel)
            return []
        self.note_word()
        return lines

    def add_channel(self, fd: int) -> None:
        channel = DirectChannelEnd(socket.socket(fileno=fd))
        self.channels[fd] = channel
        self._poller.listen(fd, select.EPOLLIN)

    def _close(self, channel: DirectChannelEnd) -> None:
        fd = channel.socket.fileno()
        self._poller.listen(fd, 0)
        del self.channels[fd]
        channel.close()

    def _listen(self) -> None:
        """Wait for the events that can come from the worker now."""
        if not self.is_cut_off:
            wanted = (0 if self.is_gone else select.EPOLLIN) | (select.EPOLLOUT if self._outgoing else 0)
            self._poller.listen(self.control.fileno(), wanted)
        if self.takeover is not None:
            self._poller.listen(self.takeover.fileno(), select.EPOLLIN if self.is_gone else 0)

    # -- the end of the worker -------------------------------------------------------------------------------------

    def vanish(self) -> None:
        """The worker has died, or has ended the conversation."""
        if self.is_gone:
            return
        self.is_gone = True
        self._listen()
        for channel in list(self.channels.values()):
            self._close(channel)
        self._on_gone()
        if self.is_detached:
            self.flush()

    def pass_to(self, control: socket.socket, pid: int) -> None:
        """Speak with the next worker from now on.

        Until its first order the jobs stay detached: a worker that was too slow to read the answer costs no job.
        """
        if not self.is_cut_off:
            self._poller.listen(self.control.fileno(), 0)
        self.control.close()
        self.control = control
        control.setblocking(False)
        self._process.close()
        self._process = WorkerProcess(pid)
        self._pulse = None
        self.is_gone = self.is_cut_off = False
        self._incoming = self._outgoing = b""
        self._listen()

    # -- the pulse -------------------------------------------------------------------------------------------------

    def expect_pulse(self, within_s: float) -> None:
        self._pulse = Pulse(within_s)

    def note_word(self) -> None:
        """The worker has said something, so it lives."""
        if self._pulse is not None:
            self._pulse.note_word()

    def pulse_due(self, *, has_work: bool) -> float:
        """Boot time of the next look at the pulse; never where nothing would follow from the worker's silence."""
        pulse = self._pulse
        if pulse is None or self.is_gone or self.is_detached or not (has_work or pulse.is_asked):
            return math.inf
        return pulse.due

    def look_at_pulse(self) -> None:
        """Ask a silent worker, and kill one that hangs."""
        pulse = self._pulse
        assert pulse is not None
        pulse.look()
        if pulse.is_over and self._process.can_be_killed:
            self._process.kill(silent_s=pulse.silent_s)
            # Before its process has gone: one that waits for a dead disk stays for a while.
            self.vanish()
        elif not pulse.is_asked:
            pulse.is_asked = True
            self.tell("ping", "")
