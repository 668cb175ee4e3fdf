"""Lets one process at a time write the archive: it holds a lease in the database, and checks it in each transaction."""

from __future__ import annotations

import os
import secrets
import socket
import time
from typing import Any

from sqlalchemy import Connection, text, update

from launch_worker.archive.schema import leader
from launch_worker.database.database import Database
from launch_worker.errors import ArchiveUnavailableError

#: Seconds of the lease. Each transaction renews it; another process takes over after a holder's death within it.
LEASE_S = 15.0


class LeaseLostError(ArchiveUnavailableError):
    """Another process writes the archive now."""


class Lease:
    """The right of one process to write."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"

    def take(self) -> str:
        """Take the lease if it is free. Returns '', or who holds it."""
        with self._database.reading() as connection:
            row, now = self._look(connection)
            if row.holder not in ("", self.holder) and row.until > now:
                return str(row.holder)
        with self._database.writing() as connection:
            row, now = self._look(connection)
            if row.holder not in ("", self.holder) and row.until > now:
                return str(row.holder)
            # In between another one may have taken it; only PostgreSQL lets two come as far.
            taken = connection.execute(
                update(leader).where(leader.c.holder == row.holder, leader.c.until == row.until), self._until(now)
            )
            return "" if taken.rowcount else "another process"

    def renew(self, connection: Connection) -> None:
        """Renew the lease in a transaction that writes, as its first act. Raises LeaseLostError.

        Until the end of the transaction no other process can take the lease, so what it writes cannot come late.
        """
        renewed = connection.execute(
            update(leader).where(leader.c.holder == self.holder), self._until(self._now_us(connection))
        )
        if not renewed.rowcount:
            raise LeaseLostError("another process writes the archive now")

    def release(self) -> None:
        """Let the next process take it at once."""
        with self._database.writing() as connection:
            connection.execute(update(leader).where(leader.c.holder == self.holder), {"holder": "", "until": 0})

    def _look(self, connection: Connection) -> tuple[Any, int]:
        """Who holds it until when, and the time now."""
        return connection.execute(text("SELECT holder, until FROM leader WHERE id = 1")).one(), self._now_us(connection)

    def _until(self, now: int) -> dict[str, str | int]:
        return {"holder": self.holder, "until": now + int(LEASE_S * 1e6)}

    def _now_us(self, connection: Connection) -> int:
        """The time of the clock that all processes share: the server's, or for a file this machine's."""
        if self._database.is_sqlite:
            return time.time_ns() // 1000
        return int(connection.execute(text("SELECT extract(epoch FROM clock_timestamp()) * 1000000")).scalar_one())
