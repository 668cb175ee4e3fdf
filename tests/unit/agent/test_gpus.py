"""How devices, cores and memory are shown, and what `status` says of runs that no worker is large enough for."""

from __future__ import annotations

from typing import Any

import pytest

from launch_worker.cli import devices
from launch_worker.model.worker import why_never

G = 1 << 30


def worker(gpus: int = 2, cpus: float = 8, memory: int = 64 * G) -> dict[str, Any]:
    return {
        "worker": "celery@a",
        "devices": [{"id": str(number), "name": "", "memory": 0, "runs": [], "use": None} for number in range(gpus)],
        "cpus": {"total": cpus, "free": cpus - 0.5},
        "memory": {"total": memory, "free": memory - 3 * G},
    }


@pytest.mark.parametrize(
    ("device", "cells"),
    [
        ({"id": "0", "runs": [], "use": None, "memory": 0}, ("0", "idle", "", "", "A")),
        ({"id": "0", "runs": [], "use": None, "memory": 80 * G}, ("0", "idle", "", "80 GiB", "A")),
        ({"id": "3", "runs": ["1m83"], "use": None}, ("3", "1m83", "", "", "A")),
        (
            {
                "id": "0",
                "runs": ["1m83", "1m84"],
                "memory": 80 * G,
                "use": {"percent": 45, "memory_used": int(3.1 * G), "memory_total": 80 * G},
            },
            ("0", "1m83,1m84", "45 %", "3.1/80 GiB", "A"),
        ),
        (
            {"id": "0", "runs": [], "use": {"percent": None, "memory_used": 0, "memory_total": 80 * G}},
            ("0", "idle", "", "0/80 GiB", "A"),
        ),
        (
            {"id": "0", "runs": [], "use": {"percent": 0, "memory_used": None, "memory_total": None}},
            ("0", "idle", "0 %", "", "A"),
        ),
    ],
)
def test_a_device_is_shown_with_who_holds_it_and_its_use(device: dict[str, Any], cells: tuple[str, ...]) -> None:
    assert devices.rows([{"worker": "w@h", "devices": [device | {"name": "A"}]}]) == [("w@h", *cells)]


def test_amounts_are_shown_as_held_of_all() -> None:
    shown = worker()
    shown["devices"][1]["runs"] = ["1m83"]
    assert devices.gpus_text(shown) == "1/2"
    assert devices.cpus_text(shown) == "0.5/8"
    assert devices.memory_text(shown) == "3/64 GiB"
    assert [row[1:3] for row in devices.rows([shown])] == [("0", "idle"), ("1", "1m83")]
    assert devices.gpus_of([shown, worker(gpus=1)]) == "1 of 3 held"
    assert devices.gpus_of([worker(gpus=0)]) == "none"


def test_a_worker_of_an_older_version_is_shown_without() -> None:
    old: dict[str, Any] = {"worker": "celery@old"}
    assert [devices.gpus_text(old), devices.cpus_text(old), devices.memory_text(old)] == ["", "", ""]
    assert devices.rows([old]) == []


@pytest.mark.parametrize(
    ("needs", "why"),
    [
        ("4:0:0", "4 GPUs, and its workers have at most 2"),
        ("0:16500:0", "16.5 cores, and its workers have at most 8"),
        (f"0:0:{128 * G}", "128 GiB of memory, and its workers have at most 64"),
        ("2:8000:0", "more GPUs, cores and memory together than any one of its workers has"),
        ("2:1000:0", ""),
        ("0:8000:0", ""),
        ("", ""),
        ("damaged", ""),
    ],
)
def test_what_no_worker_is_large_enough_for_is_said(needs: str, why: str) -> None:
    workers = [worker(gpus=2, cpus=1), worker(gpus=0, cpus=8)]
    assert why_never(needs, workers) == why
    assert why_never(needs, [*workers, {"worker": "celery@old"}]) == ""
