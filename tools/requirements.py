"""Write requirements/*.txt anew, with the hashes of all packages, and say where they do not fit pyproject.toml.

Usage, from the repository's root: `make requirements`, or with UPGRADE=1 for the newest versions that are a week old.
uv finds the index as it always does; its address gets into no file.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPO = Path(__file__).parents[1]
FOLDER = REPO / "requirements"
MACHINES = ("x86_64", "aarch64")
#: Age of the youngest version that is taken: one that a thief of a login has published is mostly found within days.
COOLING = "7 days"


@dataclass(frozen=True)
class Source:
    """The parts of pyproject.toml that a file is made from."""

    #: Extras of the project, with the project's own dependencies; None is without both.
    extras: tuple[str, ...] | None = None
    groups: tuple[str, ...] = ()
    #: File whose versions hold for this one too.
    like: str = ""


PROJECT: dict[str, Any] = tomllib.loads((REPO / "pyproject.toml").read_text())
ALL_EXTRAS = tuple(PROJECT["project"]["optional-dependencies"])
PYTHONS = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
#: In the order in which they are made.
FILES = {
    "full": Source(extras=ALL_EXTRAS),
    "image": Source(extras=("server", "postgres", "signing"), like="full"),
    "dev": Source(extras=ALL_EXTRAS, groups=("dev",), like="full"),
    "build": Source(groups=("build",), like="dev"),
    "audit": Source(groups=("audit",), like="dev"),
}


@dataclass(frozen=True)
class Pin:
    """A version of a package, for where the marker holds."""

    name: str
    version: str
    marker: Marker | None
    hashes: tuple[str, ...]
    #: True where pyproject.toml itself asks for the package.
    direct: bool

    def holds(self, environment: dict[str, str]) -> bool:
        return self.marker is None or self.marker.evaluate(environment)


def path_of(name: str) -> Path:
    return FOLDER / f"{name}.txt"


def read_pins(text: str) -> list[Pin]:
    """The pins of a file, which has nothing but pins: an option, such as the address of an index, is a ValueError."""
    pins = []
    for block in re.split(r"^(?=\S)", text, flags=re.MULTILINE)[1:]:
        first, *rest = (line.removesuffix("\\").strip() for line in block.splitlines())
        found = re.fullmatch(r"([a-z0-9.-]+)==([^\s;]+)(?: ; (.+))?", first)
        hashes = tuple(line for line in rest if re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line))
        unknown = [line for line in rest if line not in hashes and not line.startswith("#")]
        if found is None or unknown or not hashes:
            raise ValueError(f"neither a version nor its hashes: {(unknown or [first])[0]!r}")
        name, version, marker = found.groups()
        direct = "launch-worker (pyproject.toml" in block
        pins.append(Pin(canonicalize_name(name), version, Marker(marker) if marker else None, hashes, direct))
    return pins


def wanted(source: Source, project: dict[str, Any] = PROJECT) -> Iterator[Requirement]:
    """What pyproject.toml asks for."""
    texts: list[str] = []
    if source.extras is not None:
        texts += project["project"]["dependencies"]
        for extra in source.extras:
            texts += project["project"]["optional-dependencies"][extra]
    groups = list(source.groups)
    while groups:
        for entry in project["dependency-groups"][groups.pop()]:
            if isinstance(entry, str):
                texts.append(entry)
            else:
                groups.append(entry["include-group"])
    return (Requirement(text) for text in texts)


def environments() -> Iterator[tuple[str, dict[str, str]]]:
    """Each supported Python on each machine, in words and as its markers' variables."""
    for python in PYTHONS:
        for machine in MACHINES:
            yield (
                f"Python {python} on {machine}",
                {
                    "implementation_name": "cpython",
                    "os_name": "posix",
                    "platform_machine": machine,
                    "platform_python_implementation": "CPython",
                    "platform_system": "Linux",
                    "python_full_version": f"{python}.9",
                    "python_version": python,
                    "sys_platform": "linux",
                },
            )


def versions(pins: list[Pin], environment: dict[str, str]) -> dict[str, str]:
    return {pin.name: pin.version for pin in pins if pin.holds(environment)}


def misfits(pins: list[Pin], requirements: list[Requirement], like: list[Pin]) -> list[str]:
    """Where these pins do not fit the requirements, nor the pins of another file; a sentence for each."""
    found: dict[str, None] = {}
    for words, environment in environments():
        pinned, others = versions(pins, environment), versions(like, environment)
        for requirement in requirements:
            version = pinned.get(canonicalize_name(requirement.name))
            if requirement.marker is not None and not requirement.marker.evaluate(environment):
                continue
            if version is None:
                found[f"nothing for {requirement} ({words})"] = None
            elif not requirement.specifier.contains(version, prereleases=True):
                found[f"{requirement.name}=={version} for {requirement}"] = None
        for name, version in pinned.items():
            if others.get(name, version) != version:
                found[f"{name}=={version}, and {others[name]} in the file that it is made like"] = None
    asked = {canonicalize_name(requirement.name) for requirement in requirements}
    for pin in pins:
        if pin.direct and pin.name not in asked:
            found[f"{pin.name}, which pyproject.toml does not ask for"] = None
    return list(found)


def misfits_of(name: str) -> list[str]:
    source = FILES[name]
    pins = {each: read_pins(path_of(each).read_text()) for each in (name, source.like) if each}
    return misfits(pins[name], list(wanted(source)), pins.get(source.like, []))


def write(name: str, *, upgrade: bool) -> None:
    source = FILES[name]
    options = ["--universal", "--generate-hashes", "--no-header", "--exclude-newer", COOLING]
    options += ["--python-version", PYTHONS[0]]
    options += [] if source.extras is None else ["pyproject.toml"]
    options += [part for extra in source.extras or () for part in ("--extra", extra)]
    options += [part for group in source.groups for part in ("--group", group)]
    options += ["--constraints", f"requirements/{source.like}.txt"] if source.like else []
    options += ["--upgrade"] if upgrade else []
    run_uv("pip", "compile", "--output-file", f"requirements/{name}.txt", *options)


def check_wheels(name: str) -> None:
    """Ask the index whether each supported Python on each machine finds a wheel with one of the hashes."""
    options = ["--require-hashes", "--only-binary", ":all:", "--no-deps", "--dry-run"]
    with tempfile.TemporaryDirectory() as folder:
        for python in PYTHONS:
            for machine in MACHINES:
                there = ["--python-version", python, "--python-platform", f"{machine}-manylinux_2_28"]
                run_uv("pip", "install", *options, *there, "--target", folder, "--requirements", str(path_of(name)))


def run_uv(*arguments: str) -> None:
    command = [str(Path(sys.executable).with_name("uv")), *arguments, "--quiet"]
    if subprocess.run(command, cwd=REPO, check=False).returncode != 0:
        sys.exit(f"failed: uv {' '.join(arguments)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that are old enough")
    upgrade = parser.parse_args().upgrade
    FOLDER.mkdir(exist_ok=True)
    for name in FILES:
        write(name, upgrade=upgrade)
        check_wheels(name)
        if misfits_of(name):
            sys.exit(f"requirements/{name}.txt does not fit pyproject.toml: {'; '.join(misfits_of(name))}")
        print(f"requirements/{name}.txt: {len(read_pins(path_of(name).read_text()))} packages")


if __name__ == "__main__":
    main()
