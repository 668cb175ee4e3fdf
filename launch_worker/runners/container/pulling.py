"""Tells how much of an image has been pulled, by what the engine says of its layers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from launch_worker.humane import size

#: Seconds between two tellings.
_TURN_S = 2.0
#: What the engine says of a layer of which nothing is left to download.
_WHOLE = frozenset({"Verifying Checksum", "Download complete", "Extracting", "Pull complete"})


class Pulling:
    """One pull: `tell` gets `120 MiB of 450 MiB` every few seconds until `end`, and never afterwards."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        #: Bytes that are here and all bytes of each layer by its id.
        self._layers: dict[str, tuple[int, int]] = {}
        self._told_at = time.monotonic()
        self._lock = threading.Lock()
        self._is_over = False

    def note(self, step: Mapping[str, Any]) -> None:
        """Take what the engine says of one layer, or of the image."""
        layer, detail = str(step.get("id", "")), step.get("progressDetail")
        if step.get("status") == "Downloading" and isinstance(detail, dict):
            here, whole = detail.get("current"), detail.get("total")
            if isinstance(here, int) and isinstance(whole, int):
                self._layers[layer] = here, whole
        elif step.get("status") in _WHOLE and layer in self._layers:
            self._layers[layer] = self._layers[layer][1], self._layers[layer][1]
        if self._layers and time.monotonic() - self._told_at >= _TURN_S:
            self._told_at = time.monotonic()
            with self._lock:
                if not self._is_over:
                    self._tell(self.text())

    def text(self) -> str:
        here, whole = (sum(column) for column in zip(*self._layers.values(), strict=True))
        return f"{size(here)} of {size(whole)}"

    def end(self) -> None:
        with self._lock:
            self._is_over = True
