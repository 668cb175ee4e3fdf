"""Speaks with the guard for the worker, by main socket and direct channels, and replaces a guard that dies.

The guard's side of it is `worker_link`.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import select
import socket
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from launch_worker.runners.process.direct_channel import SEND_TIMEOUT_S, DirectChannel
from launch_worker.runners.process.guard_process import start_guard
from launch_worker.runners.process.protocol import decode, encode

log = logging.getLogger("launch_worker.runner")

#: Seconds to wait for `hello`; a guard of an older release sends none.
_HELLO_S = 5.0
_HELLO_BYTES = 1 << 14
#: Seconds after which a guard that reads nothing is replaced. Nothing that it does itself takes as long.
HELD_S = 10.0
#: Seconds that one look adds at most: this process and the guard may both have stood still before it.
_MOST_OF_A_LOOK_S = 5.0
#: Number of direct channels kept; more threads than that order through the main socket.
_MAX_CHANNELS = 64


class GuardLink:
    """The conversation with one guard, and with the next one when that dies. Thread-safe.

    With `control`, the conversation with a guard that another worker left, no guard is started before that one dies.
    `on_event` gets each event of a job or a container; `on_replaced` is called when a new guard must get all jobs.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        lock_fd: int | None,
        control: socket.socket | None,
        hung_after_s: float | None,
        knows_pulse: bool,
        on_event: Callable[[dict[str, Any]], None],
        on_replaced: Callable[[], None],
    ) -> None:
        """`knows_pulse`: the guard of `control` can ask whether this worker lives."""
        self._folder = folder
        self._lock_fd = lock_fd
        self._hung_after_s = hung_after_s
        self._knows_pulse = knows_pulse
        self._on_event = on_event
        self._on_replaced = on_replaced
        #: Held while an order is sent, and while another guard is put in the place of one that died.
        self.lock = threading.Lock()
        self._is_closing = False
        #: Words of the guard's `hello`; none for a guard of an older release.
        self.knows: tuple[str, ...] = ()
        #: Set once the guard has sent `hello`.
        self.greeted = threading.Event()
        #: Set unless the guard is being replaced, and so does not know all jobs yet.
        self._knows_all = threading.Event()
        self._knows_all.set()
        #: Number of guards that were replaced.
        self.generation = 0
        #: Channels to the present guard that no thread uses now, and the number of all channels to it.
        self.channels: list[DirectChannel] = []
        self.num_channels = 0
        self._control: socket.socket
        #: Monotonic time of the last look at whether the guard reads, and the seconds for which it had not by then.
        self._looked_at = time.monotonic()
        self._unread_s = 0.0
        #: None for a guard that another worker started.
        self.process: subprocess.Popen[bytes] | None = None
        if control is None:
            self._start()
        else:
            self._control = control
            self.greeted.set()  # a guard sends `hello` to its first worker only
        self._reader = threading.Thread(target=self._read, name="guard-reader", daemon=True)

    def open(self) -> None:
        """Begin to read what the guard sends."""
        self._reader.start()
        if self._knows_pulse:
            self._announce_pulse()

    def await_hello(self) -> None:
        self.greeted.wait(_HELLO_S)

    def detach(self) -> None:
        """Leave the jobs with the guard."""
        # A guard that has just replaced another one must know all jobs first.
        self._knows_all.wait(SEND_TIMEOUT_S)
        self._is_closing = True
        self.tell({"do": "detach"})
        self._end_sending()
        # The guard closes its end once it has read that: its reports before that must not be lost on the way.
        self._reader.join(SEND_TIMEOUT_S)
        self._close_sockets()
        if self.process is not None:
            self.process.returncode = 0  # the next worker's guard from now on

    def close(self, *, timeout_s: float, awaits_end: bool) -> None:
        """Let the guard go; with `awaits_end` wait until it has ended all jobs."""
        self._is_closing = True
        self._end_sending()
        if self.process is not None and awaits_end:
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                log.warning("guard %d is still ending jobs", self.process.pid)
        self._reader.join(1.0)
        self._close_sockets()

    def _end_sending(self) -> None:
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)

    def _close_sockets(self) -> None:
        with self.lock:
            channels, self.channels = self.channels, []
        for channel in channels:
            channel.close()
        self._control.close()

    # -- sending ---------------------------------------------------------------------------------------------------

    def tell(self, order: dict[str, Any]) -> None:
        line = encode(order)
        with self.lock:
            self.send(line)

    def look(self) -> None:
        """Replace a guard that reads no orders: it hangs in a start, or somebody has stopped it. Its jobs go on.

        To be called before each heartbeat's order. The guard of an earlier worker starts no jobs, and would end those
        that it has: it is left.
        """
        if self.process is None:
            return
        with self.lock:
            now = time.monotonic()
            passed_s, self._looked_at = now - self._looked_at, now
            self._unread_s = self._unread_s + min(passed_s, _MOST_OF_A_LOOK_S) if self._has_unread() else 0.0
            if self._unread_s < HELD_S:
                return
            log.error(
                "guard.held: it has read no order for %.0f s, as in a start whose files do not answer; another guard "
                "takes its jobs over",
                self._unread_s,
            )
            self._unread_s = 0.0
            self._end()

    def _has_unread(self) -> bool:
        """Whether the guard has not read all that was sent through the main socket."""
        try:
            return any(fcntl.ioctl(self._control, termios.TIOCOUTQ, bytes(4)))
        except (OSError, ValueError):  # ValueError: it is closed
            return False

    def send(self, line: bytes, fds: Sequence[int] = ()) -> None:
        """With `lock` held."""
        # An error means that the guard is dead: the reader replaces it, and gives the new one all jobs.
        try:
            sent = socket.send_fds(self._control, [line], fds) if fds else 0
            self._control.sendall(line[sent:])
        except OSError:
            self._end()

    def take_channel(self) -> DirectChannel | None:
        """Take a free channel, or make one; None where there can be none. With `lock` held."""
        if self.channels:
            return self.channels.pop()
        if "lanes" not in self.knows or self.num_channels >= _MAX_CHANNELS or self._is_closing:
            return None
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._control, [encode({"do": "lane"})], [theirs.fileno()])
            except OSError:
                ours.close()
                return None
        self.num_channels += 1
        return DirectChannel(ours, self.generation)

    def give_back(self, channel: DirectChannel, *, is_answered: bool, is_late: bool) -> bool:
        """Keep a channel for the next order; False where it must be closed. With `lock` held."""
        is_current = channel.generation == self.generation and not self._is_closing
        if is_answered and is_current:
            self.channels.append(channel)
            return True
        if is_current:
            self.num_channels -= 1
            if not is_late:
                self._end()  # it is dead already, or does not read, or has no descriptor left for a channel
        return False

    def _announce_pulse(self) -> None:
        if self._hung_after_s is not None:
            self.tell({"do": "pulse", "within_s": self._hung_after_s})

    def _end(self) -> None:
        # Also a guard that does not read its orders (its exec hangs on a dead mount): heartbeats must not wait.
        if self._is_closing:
            return
        if self.process is not None:
            self.process.kill()
        # A process that it was just starting has its end of the socket too, until its exec.
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)

    # -- receiving -------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        buffer = b""
        while True:
            try:
                data = self._control.recv(1 << 16)
            except OSError:
                data = b""
            if data:
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    try:
                        self._serve(decode(line))
                    except Exception:
                        log.exception("guard.event_failed %.200r", line)
            elif self._is_closing:
                # Here too: `close` may have waited long enough for a guard that was just being replaced.
                self._control.close()
                return
            else:
                buffer = b""
                self._knows_all.clear()
                self._replace()
                self._knows_all.set()
                self._end_sending_if_closing()

    def _end_sending_if_closing(self) -> None:
        if self._is_closing:
            self._end_sending()

    def _serve(self, event: dict[str, Any]) -> None:
        if event["on"] == "hello":
            self.knows = tuple(event["knows"])
            self.greeted.set()
            if "pulse" in self.knows:
                self._announce_pulse()
        elif event["on"] == "ping":
            self.tell({"do": "alive"})
        else:
            self._on_event(event)

    # -- a guard that died -----------------------------------------------------------------------------------------

    def _start(self) -> None:
        self.process, self._control = start_guard(self._folder, lock_fd=self._lock_fd)

    def _replace(self) -> None:
        # A guard that failed may have been of an older release, and not have understood an order.
        is_known = False
        if self.process is not None:
            status = self.process.wait()
            log.error("guard.died pid=%d status=%d: starting another", self.process.pid, status)
            is_known = status <= 0 and bool(self.knows)
        else:
            log.error("guard.died: the one of a previous worker; starting another")
        # A child that the old guard was just starting shows its environment only after its exec.
        time.sleep(0.05)
        with self.lock:
            self._control.close()
            if not is_known:
                self.knows = ()
                self.greeted.clear()
            while True:
                try:
                    self._start()
                    break
                except OSError as error:
                    log.error("guard.not_started: %s; trying again", error)
                    time.sleep(1.0)
            self.generation += 1
            channels, self.channels, self.num_channels = self.channels, [], 0
        for channel in channels:
            channel.close()
        if not is_known:
            self._read_hello()
        self._on_replaced()

    def _read_hello(self) -> None:
        """Read what a new guard knows: the words in which it gets the jobs depend on that."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        with contextlib.suppress(OSError, ValueError, KeyError):
            if poll.poll(_HELLO_S * 1000):
                for line in self._control.recv(_HELLO_BYTES).splitlines():
                    self._serve(decode(line))
        self.greeted.set()
