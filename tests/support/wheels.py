"""Makes tiny packages by hand, in a folder that uv takes for an index: wheels, and sources that build when told."""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

UV = str(Path(sys.executable).parent / "uv")


def uv_settings(wheels: Path) -> dict[str, str]:
    """The variables of a worker whose only index is a folder, and whose Python is this one's."""
    return {
        "UV_NO_INDEX": "1",
        "UV_FIND_LINKS": str(wheels),
        "UV_OFFLINE": "1",
        # Quick: the tests' packages are a line.
        "UV_COMPILE_BYTECODE": "0",
    }


def add_wheel(folder: Path, name: str, version: str, *, needs: str = "", more: Mapping[str, str] | None = None) -> None:
    """Add a package of one module, with its version in `VERSION`, and with more files."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    if needs:
        metadata += f"Requires-Dist: {needs}\n"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        **(more or {}),
    }
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        wheel.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in (*files, f"{info}/RECORD")))


#: Build of a source: it notes that it has begun, starts a process that would outlive it, and waits for a file.
_BACKEND = """
import pathlib, subprocess, sys, time, zipfile
begun, go_on = pathlib.Path({begun!r}), pathlib.Path({go_on!r})

def build_wheel(folder, config_settings=None, metadata_directory=None):
    none = subprocess.DEVNULL
    subprocess.Popen(["sleep", "600"], start_new_session=True, stdin=none, stdout=none, stderr=none)
    with begun.open("a") as file:
        file.write("begun\\n")
    print("building, as it was told", file=sys.stderr, flush=True)
    while not go_on.exists():
        time.sleep(0.02)
    name = "slow-1.0-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(folder) / name, "w") as wheel:
        wheel.writestr("slow.py", "VERSION = '1.0'\\n")
        wheel.writestr("slow-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: slow\\nVersion: 1.0\\n")
        wheel.writestr("slow-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("slow-1.0.dist-info/RECORD", "")
    return name
"""
_PROJECT = """
[project]
name = "slow"
version = "1.0"
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""


class SlowSource:
    """The package `slow`, a source: its build begins, and ends when the test says so."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._begun = folder.parent / "slow.begun"
        self._go_on = folder.parent / "slow.go-on"
        files = {
            "pyproject.toml": _PROJECT,
            "PKG-INFO": "Metadata-Version: 2.2\nName: slow\nVersion: 1.0\n",
            "backend.py": _BACKEND.format(begun=str(self._begun), go_on=str(self._go_on)),
        }
        with tarfile.open(folder / "slow-1.0.tar.gz", "w:gz") as archive:
            for path, text in files.items():
                entry = tarfile.TarInfo(f"slow-1.0/{path}")
                entry.size = len(text.encode())
                archive.addfile(entry, io.BytesIO(text.encode()))

    @property
    def builds(self) -> int:
        """The number of builds that have begun."""
        return len(self._begun.read_text().splitlines()) if self._begun.exists() else 0

    def go_on(self) -> None:
        """Let all builds end."""
        self._go_on.touch()
