"""Single runs: their deletion, and the files kept with them."""

from __future__ import annotations

from typing import Any

from launch_worker.store.reading import Reader


class ItemStore(Reader):
    """A part of `Store`, which has the scripts."""

    def _call(self, script: str, *args: object) -> Any:
        raise NotImplementedError
