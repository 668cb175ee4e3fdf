"""Objects in a store: how large a part of one is, and who waits for a store that hangs."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from launch_worker import objects
from launch_worker.errors import LaunchError
from launch_worker.objects import Objects


@pytest.fixture
def stored(tmp_path: Path) -> Objects:
    return Objects(f"file://{tmp_path}/store", setting="LAUNCH_OUTPUT_URL", what="outputs")


def test_of_many_calls_to_a_store_that_hangs_few_wait(stored: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "_HANGS_S", 0.05)
    monkeypatch.setattr(objects, "_reading", {})
    monkeypatch.setattr(objects, "_most_reads", 2)
    stored.put("a", [b"1"])
    answers, begun = threading.Event(), threading.Semaphore(0)

    def hang(*_: Any, **__: Any) -> bytes:
        begun.release()
        assert answers.wait(20)
        return b"1"

    monkeypatch.setattr(stored.files, "cat_file", hang)
    hanging = [threading.Thread(target=stored.get, args=("a",)) for _ in range(2)]
    for thread in hanging:
        thread.start()
        assert begun.acquire(timeout=20)
    with pytest.raises(LaunchError, match=r"cannot read the outputs at .*: it does not answer; 2 calls wait for it"):
        stored.get("a")
    stored.put("b", [b"2"])
    answers.set()
    for thread in hanging:
        thread.join()
    assert stored.get("a") == b"1"


def test_a_large_object_has_no_more_parts_than_a_bucket_takes(stored: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real = stored.files.open

    def noted(path: str, mode: str, block_size: int) -> Any:
        sizes.append(block_size)
        return real(path, mode)

    monkeypatch.setattr(stored.files, "open", noted)
    for size in (0, 10 << 30, 1 << 40):
        stored.put("a", [b"1"], size=size)
        assert size <= 10_000 * sizes[-1]
    assert sizes[0] == sizes[1] == 8 << 20
