"""Formats what workers have and who holds it, for `status` and `workers`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

COLUMNS = ("WORKER", "GPU", "MODEL")


def rows(workers: Iterable[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """A row for each device of each worker, under COLUMNS."""
    return [
        (worker["worker"], device_text(device), device.get("name") or "")
        for worker in workers
        for device in worker.get("devices") or ()
    ]


def device_text(device: dict[str, Any]) -> str:
    """`0: RUN 45% 3.1/80G`: its id, who holds it, and its use by the driver's word."""
    words = [f"{device['id']}:", ",".join(device.get("runs") or ()) or "idle"]
    use = device.get("use") or {}
    if use.get("percent") is not None:
        words.append(f"{use['percent']}%")
    if use.get("memory_used") is not None:
        words.append(f"{_gib(use['memory_used'])}/{_gib(use['memory_total'])}G")
    elif device.get("memory"):
        words.append(f"{_gib(device['memory'])}G")
    return " ".join(words)


def gpus_text(worker: dict[str, Any]) -> str:
    """`1/2`: how many of its devices are held, of how many; '' for none."""
    devices = worker.get("devices") or ()
    return f"{sum(bool(device.get('runs')) for device in devices)}/{len(devices)}" if devices else ""


def cpus_text(worker: dict[str, Any]) -> str:
    """`3.5/8`: cores that runs have asked for and hold, of all."""
    amount = worker.get("cpus")
    return f"{amount['total'] - amount['free']:.4g}/{amount['total']:.4g}" if amount else ""


def memory_text(worker: dict[str, Any]) -> str:
    """`12/64G`: memory that runs have asked for and hold, of all."""
    amount = worker.get("memory")
    return f"{_gib(amount['total'] - amount['free'])}/{_gib(amount['total'])}G" if amount else ""


def _gib(size: float) -> str:
    gib = size / (1 << 30)
    return f"{gib:.1f}".removesuffix(".0") if gib < 10 else f"{gib:.0f}"
