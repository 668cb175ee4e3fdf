"""Defines a folder of a container, of which a copy is kept: when the container has ended, or while it runs too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


def all_files(path: str) -> bool:
    """The answer where each file is wanted."""
    return True


def no_links(path: str, target: str) -> bool:
    """The answer where no link is kept."""
    return False


class Refreshed(NamedTuple):
    """What is known of a folder whose copy is up to date. Times are nanoseconds since 1970."""

    #: Time of its latest change, or a little later; 0 where the container has no such folder.
    changed_ns: int
    #: Time at which the container ended; None while it runs.
    ended_ns: int | None


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
    #: Whether a symbolic link is kept, by its path in the folder and what it leads to.
    keeps_link: Callable[[str, str], bool] = no_links
    #: Whether the copy is brought up to date while the container runs; a file that has not changed stays as it is.
    is_mirror: bool = False

    @property
    def left_out(self) -> Path:
        """Path of the file that says, as JSON, what of the folder is not in the copy; there only if there is such."""
        return self.target.with_name(f"{self.target.name}.left_out.json")
