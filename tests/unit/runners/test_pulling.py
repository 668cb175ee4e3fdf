"""How much of an image has been pulled, as people are told."""

from __future__ import annotations

import pytest

from launch_worker.runners.container import pulling
from launch_worker.runners.container.pulling import Pulling


def downloading(layer: str, current: object, total: object) -> dict[str, object]:
    return {"status": "Downloading", "id": layer, "progressDetail": {"current": current, "total": total}}


def test_the_layers_of_an_image_are_summed_and_told_until_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulling, "_TURN_S", 0.0)
    told: list[str] = []
    pull = Pulling(told.append)
    pull.note({"status": "Pulling from library/busybox", "id": "latest"})
    pull.note(downloading("a", 1 << 20, 4 << 20))
    pull.note(downloading("b", 1 << 20, 8 << 20))
    pull.note({"status": "Download complete", "id": "a"})
    pull.note({"status": "Extracting", "id": "a", "progressDetail": {"current": 1, "total": 9}})
    # A layer of which the size is not known, and what an engine should not say.
    pull.note(downloading("c", 5, None))
    pull.note({"status": "Downloading", "id": "d", "progressDetail": "1/2"})
    assert told[0] == "1 MiB of 4 MiB"
    assert told[-1] == "5 MiB of 12 MiB"
    pull.end()
    pull.note(downloading("b", 8 << 20, 8 << 20))
    assert told[-1] == "5 MiB of 12 MiB"
