"""How the start of a job can fail; each text is a sentence for people."""

from __future__ import annotations

from launch_worker.errors import LaunchError


class StartError(LaunchError):
    """The job could not be started."""


class StartGivenUpError(StartError):
    """An event arrived before the job had started: it is in the queue of events."""


class EngineAwayError(StartError):
    """The container engine did not answer; whether it did what was asked is not known."""


class NoContainerError(StartError):
    """There is no such container (any more)."""
