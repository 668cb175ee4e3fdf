"""The peers' own Python environments under bench/.peers: pip makes each once, and it is kept."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

MADE = Path(__file__).parent / ".peers"
#: What pip installs for each peer: the versions that all comparisons are with.
PACKAGES: dict[str, tuple[str, ...]] = {
    "celery": ("celery[redis]==5.7.0",),
    "huey": ("huey==3.5.4", "redis"),
    "rq": ("rq==3.0.0",),
    "dramatiq": ("dramatiq[redis]==2.2.1",),
    "hyperqueue": ("hyperqueue==0.27.0",),
    "runqd": ("runqd==0.4.18",),
}


def programs(name: str) -> Path:
    """The folder of a peer's programs; that of this Python's for a name that is no peer's."""
    return MADE / name / "bin" if name in PACKAGES else Path(sys.executable).parent


def install(name: str) -> None:
    """Make the environment of a peer. One with these very packages is left as it is."""
    packages = PACKAGES.get(name, ())
    mark = MADE / name / ".made"
    wanted = str(packages)
    if not packages or (mark.exists() and mark.read_text() == wanted):
        return
    MADE.mkdir(exist_ok=True)
    print(f"installing {' '.join(packages)} into {mark.parent}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(mark.parent)], check=True)
    pip = [str(programs(name) / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--compile", *packages], env=clean_env({}), check=True)
    mark.write_text(wanted)


def clean_env(more: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without settings of the systems; with bytecode, which some machines forbid."""
    unwanted = ("LAUNCH_", "CELERY_", "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in os.environ.items() if not name.startswith(unwanted)} | dict(more)
