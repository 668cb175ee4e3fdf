"""Sweeps for Python."""

from __future__ import annotations

from launch_worker.store.store import Store


class SweepApi:
    """A part of `Api`."""

    @property
    def store(self) -> Store:
        raise NotImplementedError
