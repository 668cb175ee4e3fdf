"""Reads what a run needs of a worker: GPUs, cores, memory."""

from __future__ import annotations

import re

from launch_worker.errors import InputError
from launch_worker.frozen import dataclass
from launch_worker.model.units import parse_size

_NEEDS = re.compile(r"([0-9]{1,6}):([0-9]{1,12}):([0-9]{1,18})")


@dataclass(frozen=True)
class Needs:
    """GPUs, thousandths of cores and bytes that a run needs; 0 for none."""

    gpus: int = 0
    millicores: int = 0
    memory: int = 0


NOTHING = Needs()


def parse_needs(text: str) -> Needs:
    """Read GPUS:MILLICORES:BYTES, as `RunSpec.needs` writes it. A damaged text is no needs, as at the claim."""
    match = _NEEDS.fullmatch(text)
    return Needs(*map(int, match.groups())) if match else NOTHING


def memory_range(memory: int | str | None) -> tuple[int, int]:
    """The bytes of memory that a run needs at first, and at most after it had too little: of `8G..64G`, or of one size.

    (0, 0) for no need. Raises InputError.
    """
    if not isinstance(memory, str):
        return (memory or 0, memory or 0)
    first, dots, most = memory.partition("..")
    if not dots:
        return (parse_size(first, what="memory"),) * 2
    found = parse_size(first, what="memory"), parse_size(most, what="memory")
    if not 0 < found[0] < found[1]:
        raise InputError(f"memory {memory[:60]!r} must go from a smaller size to a larger one, as 8G..64G")
    return found
