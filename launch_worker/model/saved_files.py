"""Lists the files that are kept with a run, as its record has them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NamedTuple

from launch_worker.model.run import Record
from launch_worker.model.units import isoformat
from launch_worker.untrusted.text import read_map


class SavedFile(NamedTuple):
    """A file that is kept with a run."""

    name: str
    size: int
    #: Server time in microseconds.
    saved_at: int

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "size": self.size, "saved_at": isoformat(self.saved_at)}


def saved_files(record: Record) -> list[SavedFile]:
    """A run's saved files by name, as its record lists them."""
    found = []
    for name, entry in sorted(read_map(record.files).items()):
        # A damaged entry is left out.
        with suppress(AttributeError, OverflowError, TypeError, ValueError):
            found.append(SavedFile(name, int(entry.get("size")), int(entry.get("at"))))
    return found
