"""Writes each act of a person into the audit before it is done, and afterwards how it ended."""

from __future__ import annotations

import logging
from typing import Any

from launch_worker.database.audit import DONE, write_act, write_result, write_target
from launch_worker.database.database import Database
from launch_worker.errors import ArchiveError

log = logging.getLogger("launch_worker.server")


class Act:
    """One act of a person. While the database is away the server's log has what the audit cannot take."""

    def __init__(self, database: Database, *, actor: str, address: str, what: str, kind: str, target: str) -> None:
        self._database = database
        self._fields: dict[str, Any] = {
            "actor": actor,
            "what": what,
            "kind": kind,
            "target": target,
            "address": address,
        }
        self._line: int | None = None
        self._result = DONE

    def begin(self) -> None:
        """Write the line; for before the act."""
        self._write("")

    def note(self, target: str) -> None:
        """Say to what it is done; before it is done."""
        self._fields["target"] = target
        if self._line is not None:
            try:
                with self._database.writing() as connection:
                    write_target(connection, self._line, target)
            except ArchiveError as error:
                log.warning("audit.target_unwritten line=%d target=%s: %s", self._line, target, error)

    def refuse(self, why: str) -> None:
        """Write the line of an act that is not done."""
        self._write(why)

    def fail(self, why: str) -> None:
        """Say how it ended, where its answer has begun by then and no error can be raised any more."""
        self._result = why

    def end(self, result: str = "") -> None:
        """Write how the act ended."""
        result = result or self._result
        if self._line is None:
            return
        try:
            with self._database.writing() as connection:
                write_result(connection, self._line, result)
        except ArchiveError as error:
            log.warning("audit.result_unwritten line=%d result=%s: %s", self._line, result, error)

    def _write(self, result: str) -> None:
        try:
            with self._database.writing() as connection:
                self._line = write_act(connection, **self._fields, result=result)
        except ArchiveError as error:
            said = " ".join(f"{name}={value}" for name, value in self._fields.items())
            log.warning("audit.unwritten %s result=%s: %s", said, result, error)
