"""`make release` and `make bundle`: the parts of a release, in dist/, and one tar for machines without a network.

The version stands in launch_worker/__init__.py alone. A tag on the commit must say the same, with a `v` before it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.markers import default_environment

from launch_worker import __version__
from tests.matrix import SUPPORTED, find_python
from tools.requirements import Pin, read_pins

REPO = Path(__file__).parents[1]
DIST = REPO / "dist"
BUILD = REPO / "build"
#: Folders and files of the repository that a bundle has beside the wheels and the site.
DEPLOYMENT = ("deploy", "docker-compose.yml", "docker-compose.override.yml", "docker-compose.hardened.yml", "examples")
PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check")
HASHED = ("--require-hashes", "--only-binary", ":all:")
#: The bundle's own script; it asks no index and reads no file of pip's configuration.
INSTALL = """\
#!/bin/sh
# Installs launch_worker from this folder alone into a new virtual environment: sh install.sh [FOLDER]
set -eu
cd "$(dirname "$0")"
sha256sum --quiet --check SHA256SUMS
to=${1:-$HOME/launch-worker}
"${PYTHON:-python3}" -m venv "$to"
pip="$to/bin/python -m pip --isolated --quiet --disable-pip-version-check install --no-index --find-links wheels"
$pip --require-hashes -r requirements.txt
$pip --no-deps launch_worker-*.whl
"$to/bin/launch-worker" --version
"""


class ReleaseError(Exception):
    """The release cannot be made; the text says why and what to do."""


def run(*command: str | Path, cwd: Path = REPO, env: dict[str, str] | None = None) -> str:
    """What the command prints."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ReleaseError(f"{' '.join(words)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def check_tag(tags: list[str], version: str) -> None:
    """Refuse a commit whose tag says another version than the code."""
    if tags and f"v{version}" not in tags:
        raise ReleaseError(
            f"this commit has the tag {tags[0]}, and launch_worker/__init__.py says {version}: change one of them"
        )


def build(folder: Path) -> tuple[Path, Path]:
    """The wheel and the sdist, built into the folder without a network."""
    run(sys.executable, "-m", "hatchling", "build", "--directory", folder)
    (wheel,) = folder.glob(f"launch_worker-{__version__}-*.whl")
    return wheel, folder / f"launch_worker-{__version__}.tar.gz"


def smoke(python: str, wheel: Path, folder: Path) -> None:
    """Install the wheel as a stranger does, and have a job run to its end; without a checkout, in an empty home."""
    home = folder / "home"
    home.mkdir(parents=True)
    run(python, "-m", "venv", folder / "env")
    own = folder / "env/bin/python"
    run(own, *PIP, "install", *HASHED, "-r", REPO / "requirements/image.txt")
    run(own, *PIP, "install", "--no-deps", "--no-index", wheel)
    env = {"HOME": str(home), "PATH": os.environ["PATH"], "LAUNCH_WORK_DIR": str(home / "work")}
    bin_ = own.parent
    for program in ("launch-worker", "launch-submit"):
        if __version__ not in (said := run(bin_ / program, "--version", cwd=home, env=env)):
            raise ReleaseError(f"{program} --version says {said.strip()}, not {__version__}")
    said = run(bin_ / "launch-worker", "dev", "--temporary", "--", "echo", "a job of the wheel", cwd=home, env=env)
    if "a job of the wheel" not in said:
        raise ReleaseError(f"the job of the wheel printed nothing:\n{said}")


def build_image() -> str:
    """A line on the image; it is built where a container engine answers."""
    name = f"launch_worker:{__version__}"
    engine = shutil.which("docker")
    if not engine or subprocess.run([engine, "info"], capture_output=True, check=False).returncode != 0:
        return "image: no container engine answers here, so none was built"
    run(engine, "build", "--file", "deploy/Dockerfile", "--tag", name, ".")
    return f"image: {name}"


def wanted(pins: Iterable[Pin], python: str) -> list[str]:
    """Lines of requirements for this machine and each patch of the Python (3.11): a target may have another one."""
    here = {key: str(value) for key, value in default_environment().items()}
    patches = [here | {"python_version": python, "python_full_version": f"{python}.{patch}"} for patch in (0, 99)]
    chosen = [pin for pin in pins if any(pin.holds(environment) for environment in patches)]
    return [f"{pin.name}=={pin.version} {' '.join(pin.hashes)}\n" for pin in chosen]


def sums(folder: Path) -> Iterator[str]:
    """Lines of SHA256SUMS for all files below the folder."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "SHA256SUMS":
            yield f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n"


def release() -> None:
    """Build all parts into dist/, try the wheel, and write checksums."""
    check_tag(run("git", "tag", "--points-at", "HEAD", "v*").split(), __version__)
    for old in DIST.glob("launch_worker-*.whl"):
        old.unlink()
    wheel, sdist = build(DIST)
    print(f"wheel: {wheel.name}\nsdist: {sdist.name}")
    for version in SUPPORTED:
        python = find_python(version)
        if python:
            with tempfile.TemporaryDirectory() as folder:
                smoke(python, wheel, Path(folder))
        print(f"Python {version}: {'a job ran' if python else 'not on this machine, so not tried'}")
    print(build_image())
    (DIST / "SHA256SUMS").write_text("".join(sums(DIST)))
    print("checksums: SHA256SUMS")


def bundle() -> None:
    """One tar with all that a machine without a network needs, for this machine's Python and processor."""
    name = f"launch_worker-{__version__}-py{sys.version_info[0]}{sys.version_info[1]}-{os.uname().machine}"
    folder = BUILD / "bundle" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    wheel, _ = build(BUILD / "bundle" / "own")
    shutil.copy(wheel, folder)
    shutil.copy(REPO / "requirements/full.txt", folder / "requirements.txt")
    lines = wanted(read_pins((folder / "requirements.txt").read_text()), ".".join(map(str, sys.version_info[:2])))
    asked = BUILD / "bundle" / "wanted.txt"
    asked.write_text("".join(lines))
    run(sys.executable, *PIP, "download", *HASHED, "--no-deps", "--dest", folder / "wheels", "-r", asked)
    run(sys.executable, "-m", "tools.site")
    shutil.copytree(BUILD / "site", folder / "docs")
    tracked = run("git", "ls-files", "--", *DEPLOYMENT, "LICENSE", "CHANGELOG.md").splitlines()
    for path in tracked:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / path, folder / path)
    (folder / "install.sh").write_text(INSTALL)
    (folder / "SHA256SUMS").write_text("".join(sums(folder)))
    DIST.mkdir(exist_ok=True)
    with tarfile.open(DIST / f"{name}.tar", "w") as tar:
        tar.add(folder, name)
    print(f"bundle: dist/{name}.tar, {(DIST / f'{name}.tar').stat().st_size / 2**20:.0f} MiB")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("release", "bundle"))
    try:
        {"release": release, "bundle": bundle}[parser.parse_args().what]()
    except ReleaseError as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
