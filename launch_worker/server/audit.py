"""Writes each act of a person into the audit before it is done, and afterwards how it ended."""

from __future__ import annotations

import logging
from typing import Any

from launch_worker.database.audit import DONE, Audit, new_act_id
from launch_worker.errors import ArchiveError

log = logging.getLogger("launch_worker.server")


class Act:
    """One act of a person. While the database is away the server's log has what the audit cannot take."""

    def __init__(self, audit: Audit, *, actor: str, address: str, what: str, kind: str, target: str) -> None:
        self._audit = audit
        self._fields: dict[str, Any] = {
            "actor": actor,
            "what": what,
            "kind": kind,
            "target": target,
            "address": address,
            # However often the line is written, it is one.
            "act_id": new_act_id(),
        }
        self._line: int | None = None
        self._has_begun = False
        self._result = DONE

    def begin(self, target: str = "", **detail: Any) -> None:
        """Write the line, for before the act: to what it is done, where the path does not say that, and more.

        A line that is written already stays as it is.
        """
        if self._has_begun:
            return
        self._has_begun = True
        if target:
            self._fields["target"] = target
        if detail:
            self._fields["detail"] = detail
        self._write("")

    def about(self, target: str) -> None:
        """Say to what it would be done, where nothing else writes of that before it ends."""
        self._fields["target"] = target

    def fail(self, why: str) -> None:
        """Say how it ended, where its answer has begun by then and no error can be raised any more."""
        self._result = why

    def end(self, result: str = "") -> None:
        """Write how the act ended, or the whole line of one that was refused before it began.

        Nothing where nothing was done: of what was only checked.
        """
        line, result = self._line, result or self._result
        if line is None:
            if self._has_begun or result != DONE:
                self._write(result)
            return
        try:
            self._audit.write_result(line, result)
        except ArchiveError as error:
            log.warning("audit.result_unwritten line=%d result=%s: %s", line, result, error)

    def _write(self, result: str) -> None:
        try:
            self._line = self._audit.write_act(**self._fields, result=result)
        except ArchiveError as error:
            said = " ".join(f"{name}={value}" for name, value in self._fields.items())
            log.warning("audit.unwritten %s result=%s: %s", said, result, error)
