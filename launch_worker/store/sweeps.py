"""Sweeps: what they are, how far they are, and their next run."""

from __future__ import annotations

from typing import Any

from launch_worker.store.reading import Reader


class SweepStore(Reader):
    """A part of `Store`, which has the scripts."""

    def _call(self, script: str, *args: object) -> Any:
        raise NotImplementedError
