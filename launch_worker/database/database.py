"""Opens a database, SQLite or PostgreSQL, and turns its errors into sentences."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnectionError

from launch_worker.errors import ArchiveError, ArchiveUnavailableError, SettingsError

#: Seconds to wait for another process that writes, and for a connection.
_BUSY_S = 5
_CONNECT_S = 5
#: Bytes of pages that a connection keeps: little for the server's fifteen, since the system keeps the file's pages too;
#: more for the one that writes the archive, whose indexes are changed all over.
CACHE_BYTES = 2 << 20
WRITER_CACHE_BYTES = 64 << 20


class Database:
    """One database. Thread-safe. Every method raises ArchiveError with a sentence."""

    def __init__(self, url: str, *, cache_bytes: int = CACHE_BYTES) -> None:
        """`cache_bytes`: bytes of SQLite's pages that each connection keeps."""
        self._cache_bytes = cache_bytes
        self.url = _checked(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.engine = self._engine()

    @property
    def shown(self) -> str:
        """The URL for people, without its password."""
        return str(self.url.database) if self.is_sqlite else self.url.set(drivername="postgresql").render_as_string()

    @property
    def file(self) -> Path | None:
        """SQLite's file."""
        return Path(self.url.database or "") if self.is_sqlite else None

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection whose transaction sees the database as it is at its first query."""
        with self.clear_errors(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self, *, is_synced: bool = True) -> Iterator[Connection]:
        """A connection whose transaction is committed at the end, and of which nothing stays after an error.

        With SQLite it waits for the other writers at its beginning. Without `is_synced` it does not wait for the disk:
        what it wrote outlives the end of this process, and the end of the machine only once a later one was synced.
        """
        with self.clear_errors(), self.engine.connect() as plain:
            connection = plain.execution_options(launch_writes="FULL" if is_synced else "NORMAL")
            with connection.begin():
                yield connection

    @contextmanager
    def clear_errors(self) -> Iterator[None]:
        """Turns errors of SQLAlchemy and its drivers into ours."""
        try:
            yield
        except NoConnectionError:
            raise ArchiveUnavailableError(f"the database {self.shown} has no free connection") from None
        except DBAPIError as error:
            raise self._clear(error) from error
        except SQLAlchemyError as error:
            raise ArchiveError(f"the database {self.shown} cannot be used: {_first_line(error)}") from error

    def close(self) -> None:
        self.engine.dispose()

    def _clear(self, error: DBAPIError) -> ArchiveError:
        cause = _first_line(error.orig)
        if self.is_sqlite:
            if "unable to open" in cause and self.file is not None and not self.file.exists():
                return ArchiveUnavailableError(
                    f"there is no archive at {self.shown}; start one with: launch-worker archive run"
                )
            if "disk is full" in cause or "disk I/O error" in cause:
                return ArchiveUnavailableError(
                    f"the database's disk is full ({self.shown}); make room, it goes on then"
                )
            if "malformed" in cause or "not a database" in cause:
                return ArchiveError(
                    f"the archive {self.shown} is damaged ({cause}); restore a backup of it, or move it away: "
                    "what Redis has is archived anew"
                )
            if isinstance(error, OperationalError):
                return ArchiveUnavailableError(f"the database {self.shown} cannot be used now: {cause}")
        elif error.connection_invalidated or isinstance(error, OperationalError | InterfaceError):
            return ArchiveUnavailableError(f"the database {self.shown} does not answer: {cause}")
        return ArchiveError(f"the database {self.shown} refused: {cause}")

    def _engine(self) -> Engine:
        try:
            if not self.is_sqlite:
                return create_engine(
                    self.url,
                    connect_args={"connect_timeout": _CONNECT_S, "application_name": "launch_worker"},
                    pool_pre_ping=True,
                )
            engine = create_engine(self.url, connect_args={"timeout": _BUSY_S, "check_same_thread": False})
        except ModuleNotFoundError as error:
            raise SettingsError(
                f"LAUNCH_DATABASE_URL names PostgreSQL, and {error.name} is not installed; "
                "install it with: pip install 'launch_worker[postgres]'"
            ) from None
        event.listen(engine, "connect", self._prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine

    def _prepare_sqlite(self, raw: Any, _: Any) -> None:
        # The driver begins transactions when it sees fit; here `_begin_sqlite` does.
        raw.isolation_level = None
        pragmas = ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={_BUSY_S * 1000}")
        for pragma in (*pragmas, f"cache_size=-{self._cache_bytes // 1024}"):
            raw.execute(f"PRAGMA {pragma}").close()


def _checked(text: str) -> URL:
    """The URL with the driver that is used. Raises SettingsError, without the URL's text: it may hold a password."""
    rule = "LAUNCH_DATABASE_URL must be postgresql://USER:PASSWORD@HOST/NAME or sqlite:////PATH"
    try:
        url = make_url(_with_quoted_login(text))
    except (ArgumentError, ValueError):
        raise SettingsError(rule) from None
    if url.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    is_file = url.database not in (None, "", ":memory:") and not (url.host or url.username)
    if url.drivername == "sqlite" and is_file and url.database:
        return url.set(database=os.path.abspath(os.path.expanduser(url.database)))
    raise SettingsError(rule)


def _with_quoted_login(text: str) -> str:
    """The URL with its login split at the last @, so that no part of a password is taken for a host, and is shown."""
    scheme, separator, rest = text.partition("://")
    login, _, place = rest.rpartition("@")
    name, has_password, password = login.partition(":")
    if not has_password or "/" in name or "?" in name:
        return text
    return f"{scheme}{separator}{quote(unquote(name), safe='')}:{quote(unquote(password), safe='')}@{place}"


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later could fail in between, because of another writer.
    synchronous = connection.get_execution_options().get("launch_writes")
    if synchronous and connection.info.get("synchronous") != synchronous:
        connection.exec_driver_sql(f"PRAGMA synchronous={synchronous}")
        connection.info["synchronous"] = synchronous
    connection.exec_driver_sql("BEGIN IMMEDIATE" if synchronous else "BEGIN")


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or ["no reason"])[0]
