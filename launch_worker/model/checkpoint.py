"""Reads what a run's record says of its newest checkpoint: the state from which the next attempt goes on."""

from __future__ import annotations

from typing import Any, NamedTuple

from launch_worker.model.units import isoformat
from launch_worker.untrusted.text import read_map


class Checkpoint(NamedTuple):
    """A complete state of a run's folder of checkpoints, which is kept where LAUNCH_OUTPUT_URL says."""

    attempt: int
    #: Number within the attempt; a later checkpoint has a greater one.
    number: int
    #: Number of files, and their bytes.
    files: int
    bytes: int
    #: Server time in microseconds.
    at: int

    @classmethod
    def of(cls, text: str) -> Checkpoint | None:
        """Read the field `checkpoint` of a record; None for none. A damaged one has the numbers that it shows."""
        if not text:
            return None
        known = read_map(text)
        return cls(*(_number(known.get(name)) for name in cls._fields))

    def as_json(self) -> dict[str, Any]:
        return {
            "attempt": self.attempt,
            "number": self.number,
            "files": self.files,
            "bytes": self.bytes,
            "at": isoformat(self.at),
        }


def _number(value: Any) -> int:
    return value if type(value) is int and 0 <= value < 1 << 62 else 0
