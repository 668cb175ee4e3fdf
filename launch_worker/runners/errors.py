"""Defines the errors of a job's start; each text is a sentence for people."""

from __future__ import annotations

import errno

from launch_worker.errors import LaunchError

#: What the system refuses for want of something, and not for what was asked of it: other jobs would fail here too.
OF_THE_MACHINE = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EAGAIN, errno.EIO, errno.EROFS)
)


class StartError(LaunchError):
    """The job could not be started. `worker_fault`: other jobs could not be started here either."""

    def __init__(self, text: str = "", *, worker_fault: bool = False) -> None:
        super().__init__(text)
        self.worker_fault = worker_fault


class StartGivenUpError(StartError):
    """An event arrived before the job had started: it is in the queue of events."""


class LeaseLostError(StartError):
    """The worker could not renew the attempt's lease until its job was to begin: another worker may have the run."""


class EngineAwayError(StartError):
    """The container engine did not answer; whether it did what was asked is not known."""


class NoContainerError(StartError):
    """There is no such container (any more)."""
