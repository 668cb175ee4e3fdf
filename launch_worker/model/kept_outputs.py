"""Says of which attempts a run's outputs are kept, as its record has it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from launch_worker.model.units import isoformat, micros_of
from launch_worker.untrusted.text import read_map


class KeptOutputs(NamedTuple):
    """The outputs of one attempt."""

    files: int = 0
    bytes: int = 0
    #: Server time in microseconds at which they were all there; 0 while they are on their way.
    at: int = 0
    #: Number of files that are not kept.
    left_out: int = 0
    #: Whether a worker is still to send them.
    is_sending: bool = False


def read_outputs(text: str) -> dict[int, KeptOutputs]:
    """The outputs by attempt, the first one first. A damaged entry is left out."""
    found = {}
    for name, entry in read_map(text).items():
        with suppress(AttributeError, OverflowError, TypeError, ValueError):
            files, size, at, left_out = (int(entry.get(key) or 0) for key in ("files", "bytes", "at", "left_out"))
            found[int(name)] = KeptOutputs(files, size, at, left_out, is_sending=entry.get("sending") is True)
    return dict(sorted(found.items()))


def outputs_as_json(text: str) -> dict[str, Any]:
    """The outputs by attempt, as `show --json` has them."""
    return {
        str(attempt): {
            "files": kept.files,
            "bytes": kept.bytes,
            "at": isoformat(kept.at) if kept.at else None,
            "left_out": kept.left_out,
            "sending": kept.is_sending,
        }
        for attempt, kept in read_outputs(text).items()
    }


def outputs_from_json(shown: Any) -> str:
    """The field of the record for what `outputs_as_json` wrote."""
    if not isinstance(shown, Mapping) or not shown:
        return ""
    return json.dumps(
        {
            name: {**entry, "at": micros_of(entry.get("at")) or 0}
            for name, entry in shown.items()
            if isinstance(entry, Mapping)
        }
    )
