"""Finds out whether a process is writing a file of a folder just now, as Linux tells of its own user's processes."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def file_being_written(folder: Path) -> str:
    """The path of a file below the folder that a process has open for writing; '' where there is none."""
    inside = f"{os.path.realpath(folder)}/"
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        # The process may end meanwhile, or be another user's.
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    path = os.readlink(f"/proc/{pid}/fd/{fd}")
                    if path.startswith(inside) and _is_for_writing(f"/proc/{pid}/fdinfo/{fd}"):
                        return path.removeprefix(inside)
    return ""


def _is_for_writing(fdinfo: str) -> bool:
    lines = dict(line.split(":\t", 1) for line in Path(fdinfo).read_text().splitlines() if ":\t" in line)
    return int(lines.get("flags", "0"), 8) & os.O_ACCMODE != os.O_RDONLY
