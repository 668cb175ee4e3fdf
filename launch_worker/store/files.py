"""Keeps files with a run, and reads them."""

from __future__ import annotations

import re
from typing import cast

from launch_worker.errors import InputError
from launch_worker.store import keys
from launch_worker.store.answers import SaveWord
from launch_worker.store.records import Records
from launch_worker.store.redis.client import text
from launch_worker.store.redis.connection import clear_errors

#: Names of saved files. They become file names where a person fetches them: no slash, not hidden, not an option.
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+=-]{0,199}")
MAX_FILE_BYTES = 1 << 20
MAX_FILES = 64
#: Bytes of all saved files of one run.
MAX_FILES_BYTES = 8 << 20


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
