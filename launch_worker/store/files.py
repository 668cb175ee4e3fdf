"""Keeps files with a run, and reads them."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, NamedTuple, cast

from launch_worker.errors import InputError
from launch_worker.model.run import Record
from launch_worker.model.units import isoformat
from launch_worker.store import keys
from launch_worker.store.answers import SaveWord
from launch_worker.store.records import Records
from launch_worker.store.redis.client import text
from launch_worker.store.redis.connection import clear_errors
from launch_worker.untrusted.text import read_map

#: Names of saved files. They become file names where a person fetches them: no slash, not hidden, not an option.
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+=-]{0,199}")
MAX_FILE_BYTES = 1 << 20
MAX_FILES = 64
#: Bytes of all saved files of one run.
MAX_FILES_BYTES = 8 << 20


class SavedFile(NamedTuple):
    """A file that is kept with a run."""

    name: str
    size: int
    #: Server time in microseconds.
    saved_at: int

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "size": self.size, "saved_at": isoformat(self.saved_at)}


class Files(Records):
    """The part of `Store` that keeps files with runs."""

    def save_file(self, run_id: str, name: str, data: bytes) -> bool:
        """Keep a file with a run in any state; a file of that name is replaced. False when the run has too many files.

        Raises InputError for a name that could leave a folder, and for more than 1 MiB; UnknownRunError.
        """
        if not FILE_NAME.fullmatch(name):
            raise InputError(f"{name[:60]!r} is no name for a file; use letters, digits and . _ @ + = -, at most 200")
        if len(data) > MAX_FILE_BYTES:
            raise InputError(f"file {name!r} has {len(data):,} bytes; at most {MAX_FILE_BYTES:,} are kept with a run")
        word = cast(SaveWord, text(self._call("save_file", run_id, name, data, MAX_FILES, MAX_FILES_BYTES)))
        if word == "unknown":
            raise self.unknown(run_id)
        return word == "kept"

    def read_file(self, run_id: str, name: str) -> bytes | None:
        """The content of a run's saved file; None when the run has no file of that name."""
        with clear_errors(self.url):
            data: bytes | None = self._redis.hget(keys.files(run_id), name)
        return data


def saved_files(record: Record) -> list[SavedFile]:
    """A run's saved files by name, as its record lists them."""
    found = []
    for name, entry in sorted(read_map(record.files).items()):
        # A damaged entry is left out.
        with suppress(AttributeError, OverflowError, TypeError, ValueError):
            found.append(SavedFile(name, int(entry.get("size")), int(entry.get("at"))))
    return found
