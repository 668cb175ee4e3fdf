"""Reads what a run needs of a worker: GPUs, cores, memory."""

from __future__ import annotations

import re
from dataclasses import dataclass

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
