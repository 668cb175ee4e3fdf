"""Fetches what browsers get from others into launch_worker/server/static/vendor, by npm: `make assets`.

What it wrote is committed, so that neither a build nor a server needs npm. For a newer version change WANTED.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from launch_worker.untrusted.text import read_map

VENDOR = Path(__file__).parents[1] / "launch_worker/server/static/vendor"
VERSIONS = VENDOR / "VERSIONS.json"


@dataclass(frozen=True)
class Wanted:
    """One version of a package, and the files of it that browsers get."""

    name: str
    version: str
    files: tuple[str, ...]


WANTED = (
    Wanted("htmx.org", "4.0.1", ("dist/htmx.min.js",)),
    Wanted("uplot", "1.6.32", ("dist/uPlot.iife.min.js", "dist/uPlot.min.css")),
)


def main() -> None:
    known = {(one["name"], one["version"], one["file"]): one["sha256"] for one in read_versions()}
    texts: dict[str, bytes] = {}
    versions: list[dict[str, str]] = []
    for wanted in WANTED:
        package = fetch(wanted)
        licence = f"{wanted.name}.LICENSE.txt"
        texts[licence] = package["LICENSE"]
        said = read_map(package["package.json"].decode())
        for path in wanted.files:
            file = path.rpartition("/")[2]
            texts[file] = package[path]
            sha256 = hashlib.sha256(package[path]).hexdigest()
            if known.get((wanted.name, wanted.version, file), sha256) != sha256:
                sys.exit(f"{wanted.name} {wanted.version} has another {file} than the kept one: find out why")
            versions.append(
                {
                    "name": wanted.name,
                    "version": wanted.version,
                    "file": file,
                    "sha256": sha256,
                    "licence": said["license"],
                    "licence_file": licence,
                }
            )
    VENDOR.mkdir(exist_ok=True)
    for old in VENDOR.iterdir():
        old.unlink()
    for name, text in texts.items():
        (VENDOR / name).write_bytes(text)
    VERSIONS.write_text(json.dumps(versions, indent=2) + "\n", encoding="utf-8")


def read_versions() -> list[dict[str, Any]]:
    """What is kept now; [] before the first time."""
    found: list[dict[str, Any]] = json.loads(VERSIONS.read_bytes()) if VERSIONS.is_file() else []
    return found


def fetch(wanted: Wanted) -> dict[str, bytes]:
    """The files of a package by their path in it."""
    with TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", "--pack-destination", folder, f"{wanted.name}@{wanted.version}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (packed,) = Path(folder).iterdir()
        with tarfile.open(packed) as package:
            needed = {f"package/{path}" for path in (*wanted.files, "LICENSE", "package.json")}
            read = {member.name: package.extractfile(member) for member in package if member.name in needed}
            return {name.removeprefix("package/"): file.read() for name, file in read.items() if file is not None}


if __name__ == "__main__":
    main()
