"""Defines a folder of a container, of which a copy is kept when the container has ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


def all_files(path: str) -> bool:
    """The answer where each file is wanted."""
    return True


@dataclass(frozen=True)
class KeptFolder:
    """A folder of a container, and where its copy goes."""

    #: Path in the container.
    inside: str
    #: Path of the copy.
    target: Path
    #: Bytes of all files together, and their number, at most.
    max_bytes: int
    max_files: int
    #: Whether a file is kept, by its path in the folder.
    wanted: Callable[[str], bool] = all_files

    @property
    def left_out(self) -> Path:
        """Path of the file that says, as JSON, what of the folder is not in the copy; there only if there is such."""
        return self.target.with_name(f"{self.target.name}.left_out.json")
