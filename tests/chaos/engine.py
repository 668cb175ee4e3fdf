"""A container engine of the harness's own, which it may freeze and kill, and an image for it."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from tests.support import engines
from tests.support.engine import busybox_root

IMAGE = "localhost/launch-chaos/python:1"
#: The parts of this machine that its Python needs; the image itself has a shell only.
_SYSTEM_FOLDERS = ("/usr", "/lib", "/lib64")


def mounts(*, read: tuple[Path, ...], write: tuple[Path, ...]) -> list[str]:
    """What a container must see so that this interpreter runs in it as it does outside."""
    folders = {*_SYSTEM_FOLDERS, sys.base_prefix, sys.prefix}
    seen = [folder for folder in sorted(folders) if os.path.isdir(folder)]
    outer = [folder for folder in seen if not any(folder.startswith(f"{other}/") for other in seen)]
    return [
        *(f"{folder}:{folder}:ro" for folder in [*outer, *map(str, read)]),
        *(f"{folder}:{folder}" for folder in write),
    ]


class OwnEngine(engines.OwnEngine):
    """A dockerd whose containers outlive it, as with `live-restore`. Takes root, and Debian's docker.io."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, live_restore=True)
        self.load(busybox_root(), IMAGE)

    @staticmethod
    def is_possible() -> bool:
        return not engines.OwnEngine.why_not() and shutil.which("busybox") is not None
