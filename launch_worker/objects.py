"""Reads and writes objects in a folder or bucket that fsspec knows, and makes each of its errors one sentence."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Any, NamedTuple

from launch_worker.errors import LaunchError, SettingsError
from launch_worker.redis_url import mask_url

#: Protocols of stores in which an object is there whole or not at all.
_ATOMIC = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "memory"})
#: Bytes of a large object that are held and sent at once; more for one that would have more parts: S3 allows 10,000.
_PART_BYTES, _MOST_PARTS = 8 << 20, 9_000


#: Seconds after which a call that is not answered counts as hanging.
_HANGS_S = 5.0


class Turns:
    """Lets so many calls be under way at once. While the oldest of these hangs no other one waits behind it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._changed = threading.Condition()
        #: Monotonic time of the begin of each call.
        self._begun: dict[object, float] = {}

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Wait for a turn, and have it. Raises TimeoutError."""
        call = object()
        with self._changed:
            while len(self._begun) >= self._most:
                left_s = min(self._begun.values()) + _HANGS_S - time.monotonic()
                if left_s <= 0:
                    raise TimeoutError(f"it does not answer; {len(self._begun)} calls wait for it")
                self._changed.wait(left_s)
            self._begun[call] = time.monotonic()
        try:
            yield
        finally:
            with self._changed:
                del self._begun[call]
                self._changed.notify()


#: Turns of reading calls, by URL, in a process whose threads are few and whose callers are many; else none.
_reading: dict[str, Turns] = {}
_most_reads: int | None = None


def bound_reads(most: int) -> None:
    """Have this process wait for at most so many reading calls of each store: one that hangs must not take all threads.

    Called once, before the first use of a store.
    """
    global _most_reads
    _most_reads = most


def _turn(url: str) -> AbstractContextManager[None]:
    return nullcontext() if _most_reads is None else _reading.setdefault(url, Turns(_most_reads)).one()


class Facts(NamedTuple):
    """What a store says of an object."""

    size: int
    #: Time at which it was written, seconds since 1970 by the store's clock; 0 where the store does not say.
    written_s: float


class Objects:
    """The objects below one URL: `file:///shared/logs`, `s3://bucket/prefix` … The first use imports fsspec."""

    def __init__(self, url: str, *, setting: str, what: str) -> None:
        """`setting` and `what` are for errors: LAUNCH_UPLOAD_URL, "uploads". Raises LaunchError."""
        self._url = url
        self._setting = setting
        self._what = what
        with self.errors("open"):
            from fsspec.core import url_to_fs

            self.files: Any
            self.files, self.root = url_to_fs(url)
        protocols = self.files.protocol
        names = {protocols} if isinstance(protocols, str) else set(protocols)
        self._is_atomic, self._is_local = not _ATOMIC.isdisjoint(names), "file" in names

    @property
    def url(self) -> str:
        """The URL as it was given."""
        return self._url

    @property
    def shown(self) -> str:
        """The URL without its secrets."""
        return mask_url(self._url)

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def put(self, name: str, pieces: Iterable[bytes], *, size: int = 0, on_disk: bool = False) -> None:
        """Write an object, of pieces of which one at a time is held; nobody sees a part of it. Raises LaunchError.

        `size` is the number of its bytes, where that may be many: a bucket takes an object in some thousand parts.
        With `on_disk` a folder's disk has it when this returns, whatever becomes of the machine; a bucket keeps what it
        took in any case.
        """
        path = self.path(name)
        written = path
        with self.errors("write to"):
            if not self._is_atomic:
                folder, _, plain = path.rpartition("/")
                self.files.makedirs(folder, exist_ok=True)
                written = f"{folder}/.{plain}.{secrets.token_hex(4)}.partial"
            try:
                part_bytes = max(_PART_BYTES, -(-size // _MOST_PARTS))
                target = self.files.open(written, "wb", block_size=part_bytes)
                try:
                    for piece in pieces:
                        target.write(piece)
                    if on_disk and self._is_local:
                        target.flush()
                        os.fsync(target.fileno())
                    target.close()
                except BaseException:
                    if self._is_atomic:
                        _give_up(target)
                    else:
                        with contextlib.suppress(Exception):
                            target.close()
                    raise
                if written != path:
                    self.files.mv(written, path)
                if on_disk and self._is_local:
                    _sync_folder(path)
            except BaseException:
                if written != path:
                    with contextlib.suppress(Exception):
                        self.files.rm_file(written)
                raise

    def get(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Read an object, or a part of it. Raises FileNotFoundError, LaunchError."""
        with self.errors("read"):
            try:
                data: bytes = self.files.cat_file(self.path(name), start=start, end=end)
            except FileNotFoundError as error:
                missing = error
            else:
                return data
        raise missing

    def get_small(self, name: str, *, most_bytes: int) -> bytes:
        """Read an object that anybody may have put there. Raises ValueError for a larger one, and what `get` raises."""
        data = self.get(name, 0, most_bytes + 1)
        if len(data) > most_bytes:
            raise ValueError(f"it has more than {most_bytes:,} bytes")
        return data

    def facts(self, name: str) -> Facts | None:
        """Size and age of an object; None where there is none. Raises LaunchError."""
        with self.errors("read"):
            path = self.path(name)
            self.files.invalidate_cache(path.rpartition("/")[0])
            try:
                info = self.files.info(path)
            except FileNotFoundError:
                return None
            return _facts(info) if info["type"] == "file" else None

    def all_facts(self, prefix: str) -> dict[str, Facts]:
        """Size and age of all objects below a prefix, by name. Raises LaunchError."""
        with self.errors("read"):
            self.files.invalidate_cache()
            try:
                found = self.files.find(self.path(prefix), detail=True)
            except FileNotFoundError:
                return {}
            return {str(path).removeprefix(f"{self.root}/"): _facts(info) for path, info in found.items()}

    def names(self, prefix: str) -> list[str]:
        """The names of all objects below a prefix. Raises LaunchError."""
        with self.errors("read"):
            self.files.invalidate_cache()
            try:
                found = self.files.find(self.path(prefix))
            except FileNotFoundError:
                return []
            return sorted(str(path).removeprefix(f"{self.root}/") for path in found)

    def folders(self, below: str = "") -> list[str]:
        """The first parts of all names, or of those below a folder. Raises LaunchError."""
        with self.errors("read"):
            self.files.invalidate_cache()
            try:
                found = self.files.ls(self.path(below) if below else self.root, detail=False)
            except FileNotFoundError:
                return []
            return [str(path).rstrip("/").rpartition("/")[2] for path in found]

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; some may be gone already. Raises LaunchError."""
        with self.errors("delete from"):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    self.files.rm_file(self.path(name))

    def delete_folder(self, prefix: str) -> None:
        """Delete all objects below a prefix. Raises LaunchError."""
        self.delete(self.names(prefix))
        # A bucket has no folders.
        with contextlib.suppress(Exception):
            self.files.rm(self.path(prefix), recursive=True)

    @contextlib.contextmanager
    def errors(self, verb: str) -> Iterator[None]:
        """Raise each error as a LaunchError without secrets."""
        url = self.shown
        try:
            with _turn(self._url) if verb == "read" else nullcontext():
                yield
        except LaunchError:
            raise
        except (ImportError, ValueError) as error:
            why = str(error).replace(self._url, url)
            raise SettingsError(f"{self._setting} {url} cannot be used: {why}") from None
        except Exception as error:
            # Every kind of storage has errors of its own.
            why = str(error).partition("\n")[0].replace(self._url, url) or type(error).__name__
            raise LaunchError(f"cannot {verb} the {self._what} at {url} ({self._setting}): {why}") from error


def _give_up(target: Any) -> None:
    """Have an object in a bucket not begin to exist, nor leave parts that nobody sees and somebody pays for.

    To close its file would make an object of the pieces written so far.
    """
    with contextlib.suppress(Exception):
        target.discard()
    with contextlib.suppress(Exception):
        target.closed = True


def _facts(info: dict[str, Any]) -> Facts:
    # Each kind of storage has a name of its own for the time.
    times = (info.get(name) for name in ("LastModified", "last_modified", "updated", "mtime", "created"))
    at = next((at for at in times if at), 0.0)
    if isinstance(at, str):
        at = datetime.fromisoformat(at)
    return Facts(int(info["size"] or 0), at.timestamp() if isinstance(at, datetime) else float(at))


def _sync_folder(path: str) -> None:
    """Have the disk know the name of a new file."""
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
