"""Locks the data folder of `launch-worker dev` for one process, and says in it where that one's Redis is."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from launch_worker.dev_folder import ADDRESS, LOCK, dev_folder
from launch_worker.errors import LaunchError
from launch_worker.redis_url import mask_url
from launch_worker.untrusted.ownership import make_ours
from launch_worker.untrusted.text import read_map

#: Seconds for which a `dev` that is stopping, or a command that looks for one, may have the folder.
_WAIT_S = 60.0
_AT_ONCE_S = 0.5


class DataFolder:
    """The folder of this user, kept from one `dev` to the next; or a temporary one, deleted by `leave`."""

    def __init__(self, path: Path, *, is_temporary: bool) -> None:
        self.path = path
        self.is_temporary = is_temporary
        self._lock: int | None = None

    @classmethod
    def of_user(cls, env: Mapping[str, str]) -> DataFolder:
        """This user's folder. Raises LaunchError for a user without a home."""
        path = dev_folder(env)
        if path is None:
            raise LaunchError("HOME is not set, so there is no place for data; set HOME, or use --temporary")
        return cls(path, is_temporary=False)

    @classmethod
    def temporary(cls) -> DataFolder:
        return cls(Path(tempfile.mkdtemp(prefix="launch-dev-")), is_temporary=True)

    def take(self, *, waits: Callable[[], None], go_on: Callable[[], bool]) -> None:
        """Lock the folder until `leave`, or this process's end. Raises LaunchError when another `dev` lives with it.

        A `dev` that is stopping is waited for while `go_on`; `waits` is called when the wait begins.
        """
        try:
            if why_foreign := make_ours(self.path):
                raise LaunchError(f"the data folder {self.path} is not used: {why_foreign}; or use --temporary")
            self.path.chmod(0o700)
            self._lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LaunchError(
                f"the data folder {self.path} cannot be used ({error.strerror}); mend that, or use --temporary"
            ) from None
        begun, has_said = time.monotonic(), False
        while not self._try_lock():
            other = self._address()
            waited_s = time.monotonic() - begun
            if waited_s > (_AT_ONCE_S if other else _WAIT_S) or not go_on():
                raise LaunchError(self._refusal(other))
            if waited_s > _AT_ONCE_S and not has_said:
                has_said = True
                waits()
            time.sleep(0.05)
        self.withdraw()

    def publish(self, *, pid: int, redis_url: str, server_url: str) -> None:
        """Let other programs of this user find the Redis."""
        written = self.path / f".{ADDRESS}"
        written.unlink(missing_ok=True)
        with open(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump({"pid": pid, "redis_url": redis_url, "server_url": server_url or None}, file)
        written.rename(self.path / ADDRESS)

    def withdraw(self) -> None:
        """Let no other program find the Redis any more."""
        (self.path / ADDRESS).unlink(missing_ok=True)

    def leave(self) -> None:
        if self.is_temporary:
            shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _try_lock(self) -> bool:
        assert self._lock is not None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _address(self) -> dict[str, object] | None:
        try:
            return read_map((self.path / ADDRESS).read_bytes()) or None
        except OSError:
            return None

    def _refusal(self, other: dict[str, object] | None) -> str:
        if other is None:
            return f"another launch-worker dev has the data folder {self.path}, and is starting or stopping; try again"
        page = f", its web page at {other['server_url']}" if other.get("server_url") else ""
        return (
            f"launch-worker dev is up already (process {other.get('pid')}): its Redis is at "
            f"{mask_url(str(other.get('redis_url')))}{page}; submit to it with launch-submit, or use --temporary"
        )
