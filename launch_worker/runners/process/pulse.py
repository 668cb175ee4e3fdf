"""Counts, for the guard, how long the worker is silent, and kills one that hangs. Standard library only."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

from launch_worker.clock import boot_time_s

#: Part of `within_s` after which a silent worker is asked.
_ASKED_AFTER = 1 / 5


class Pulse:
    """Counts the seconds for which the worker has said nothing, as far as this guard could have read it.

    Each look adds one interval at most. So a machine that stood still, or a guard that was stopped, is not taken for a
    worker that hangs.
    """

    def __init__(self, within_s: float) -> None:
        self._within_s = within_s
        self._interval_s = within_s * _ASKED_AFTER
        self.note_word()

    def note_word(self) -> None:
        """The worker has said something."""
        self.silent_s = 0.0
        self.is_asked = False
        self._looked_at = boot_time_s()
        #: Boot time of the next look.
        self.due = self._looked_at + self._interval_s

    def look(self) -> None:
        now = boot_time_s()
        self.silent_s += min(max(0.0, now - self._looked_at), self._interval_s)
        self._looked_at = now
        self.due = now + self._interval_s

    @property
    def is_over(self) -> bool:
        return self.silent_s >= self._within_s


class WorkerProcess:
    """The worker's process, by a descriptor: its pid may be another process's once it has ended."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        #: None where the kernel gives none.
        self._pidfd: int | None = None
        with contextlib.suppress(OSError):
            self._pidfd = os.pidfd_open(pid)

    @property
    def can_be_killed(self) -> bool:
        return self._pidfd is not None

    def kill(self, *, silent_s: float) -> None:
        assert self._pidfd is not None
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        with contextlib.suppress(OSError):  # the log may have no reader any more
            sys.stderr.write(f"guard.worker_hung: it has said nothing for {silent_s:.0f} s and is killed\n")

    def close(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
