"""Defines sums of what attempts used, by user, project, queue, worker or GPU."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args

By = Literal["user", "project", "queue", "worker", "gpu"]
WAYS: tuple[By, ...] = get_args(By)


@dataclass
class Total:
    """Sums over the attempts of one group."""

    #: Number of attempts, and of those among them of which nothing is known; they add nothing to the sums.
    attempts: int = 0
    unknown: int = 0
    #: Seconds from begin to end, of CPU, of cores that were asked for.
    wall_s: float = 0.0
    cpu_s: float = 0.0
    asked_cpu_s: float = 0.0
    #: Resident memory, and memory that was asked for, over time: GiB times hours.
    memory_gb_h: float = 0.0
    asked_memory_gb_h: float = 0.0
    #: Seconds of GPUs at work, and of GPUs that were held.
    gpu_s: float = 0.0
    held_gpu_s: float = 0.0
    #: Bytes of outputs that are kept; content that several of them have counts for each.
    output_bytes: float = 0.0

    def add(self, other: Total, share: float = 1.0) -> None:
        """Add another total; with a `share` below 1 that part of what is not a number of attempts."""
        self.attempts += other.attempts
        self.unknown += other.unknown
        for name in _AMOUNTS:
            setattr(self, name, getattr(self, name) + share * getattr(other, name))


_AMOUNTS = tuple(field.name for field in fields(Total) if field.name not in ("attempts", "unknown"))
