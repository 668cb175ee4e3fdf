"""A PostgreSQL server of the tests' own, from the programs of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.conftest import wait_until

#: Places where Debian and others have the programs of the server.
_PLACES = "/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin"


class Postgres:
    """A server in a temporary folder, reached by a socket there; it stays up until `stop`."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        # Not in TMPDIR: the path of a socket must be short.
        self._folder = Path(tempfile.mkdtemp(prefix="launch-pg-", dir="/tmp"))
        # The server refuses to be root.
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            shutil.chown(self._folder, "nobody", "nogroup")
            self._user = {"user": "nobody", "group": "nogroup", "extra_groups": []}
        self._run("initdb", "-D", "data", "-A", "trust", "-U", "launch", "-E", "UTF8", "--locale=C", "--no-sync")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def url(self, name: str = "postgres") -> str:
        return f"postgresql://launch@/{name}?host={self._folder}"

    def start(self) -> None:
        settings = (
            "listen_addresses=",
            "fsync=off",
            "full_page_writes=off",
            "shared_buffers=32MB",
            "max_connections=30",
        )
        words = [word for setting in settings for word in ("-c", setting)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", "data", "-k", self._folder, *words],
                cwd=self._folder,
                stdout=log,
                stderr=log,
                **self._user,
            )
        wait_until(self._answers, what="PostgreSQL answers")

    def stop(self) -> None:
        """End the server as a power cut would: its connections are gone at once."""
        if self._process is not None:
            # SIGQUIT: an immediate shutdown, as there may be clients.
            self._process.send_signal(3)
            self._process.wait()
            self._process = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text()
        command = [str(self._programs / "pg_isready"), "-h", str(self._folder), "-q"]
        return subprocess.run(command, check=False).returncode == 0

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._programs / program), *arguments],
            cwd=self._folder,
            check=True,
            capture_output=True,
            **self._user,
        )


def programs() -> Path | None:
    """The folder with the server's programs; None where there is none."""
    found = [path for pattern in _PLACES for path in sorted(Path("/").glob(pattern[1:]))]
    on_path = shutil.which("postgres")
    candidates = [*reversed(found), *([Path(on_path).parent] if on_path else [])]
    return next((path for path in candidates if (path / "initdb").exists() and (path / "postgres").exists()), None)
