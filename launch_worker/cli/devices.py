"""Formats what workers have and who holds it, for `status` and `workers`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from launch_worker.terminal import Column, Styled, styled

COLUMNS = (
    Column("WORKER", least=12),
    Column("GPU"),
    Column("HELD BY"),
    Column("BUSY", 1, right=True),
    Column("MEMORY", 2, right=True),
    Column("MODEL", 3, least=10),
)
#: Columns of a worker itself.
WORKER_COLUMNS = (
    Column("WORKER", least=16),
    Column("STATE"),
    Column("RUNNING", right=True),
    Column("GPUS", 1, right=True),
    Column("CPUS", 2, right=True),
    Column("MEMORY", 3, right=True),
    Column("QUEUES", 4, least=10),
    Column("HOST", 6, least=8),
    Column("PID", 7),
)
#: Colours of the states of workers that take no runs.
_COLOURS = {"draining": "yellow", "quarantined": "red", "stuck": "red", "lost": "bright_red"}


def rows(workers: Iterable[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """A row for each device of each worker, under COLUMNS."""
    return [(worker["worker"], *_cells(device)) for worker in workers for device in worker.get("devices") or ()]


def worker_row(worker: Mapping[str, Any]) -> tuple[Any, ...]:
    """The row of a live worker, under WORKER_COLUMNS."""
    return (
        *(worker["worker"], state_text(worker["state"]), f"{worker['running']}/{worker['slots']}"),
        *(gpus_text(worker), cpus_text(worker), memory_text(worker)),
        *(",".join(worker["queues"]), worker["host"], str(worker["pid"])),
    )


def _cells(device: Mapping[str, Any]) -> tuple[Any, ...]:
    use = device.get("use") or {}
    busy = "" if use.get("percent") is None else f"{use['percent']} %"
    memory = f"{_gib(device['memory'])} GiB" if device.get("memory") else ""
    if use.get("memory_used") is not None:
        memory = f"{_gib(use['memory_used'])}/{_gib(use['memory_total'])} GiB"
    return device["id"], ",".join(device.get("runs") or ()) or "idle", busy, memory, device.get("name")


def gpus_of(workers: Iterable[Mapping[str, Any]]) -> str:
    """`3 of 8 held`, of all workers; `none` where no worker has any."""
    there = [device for worker in workers for device in worker.get("devices") or ()]
    return f"{sum(bool(device.get('runs')) for device in there)} of {len(there)} held" if there else "none"


def gpus_text(worker: Mapping[str, Any]) -> str:
    """`1/2`: how many of its devices are held, of how many; `0` for none, '' for a worker that does not say."""
    there = worker.get("devices")
    if there is None:
        return ""
    return f"{sum(bool(device.get('runs')) for device in there)}/{len(there)}" if there else "0"


def cpus_text(worker: Mapping[str, Any]) -> str:
    """`3.5/8`: cores that runs have asked for and hold, of all."""
    amount = worker.get("cpus")
    return f"{amount['total'] - amount['free']:.4g}/{amount['total']:.4g}" if amount else ""


def memory_text(worker: Mapping[str, Any]) -> str:
    """`12/64 GiB`: memory that runs have asked for and hold, of all."""
    amount = worker.get("memory")
    return f"{_gib(amount['total'] - amount['free'])}/{_gib(amount['total'])} GiB" if amount else ""


def state_text(state: str) -> Styled:
    """The state of a worker, in a colour where it takes no runs."""
    return styled(state, colour=_COLOURS.get(state))


def _gib(size: float) -> str:
    gib = size / (1 << 30)
    return f"{gib:.1f}".removesuffix(".0") if gib < 10 else f"{gib:.0f}"
