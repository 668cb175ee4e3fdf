"""Reads an output file by the number of bytes that were printed before, whatever was given back to the disk."""

from __future__ import annotations

import os

from launch_worker.runners.output import OutputFile


class OutputReader:
    """An output file that grows, and loses its beginning as it grows too large."""

    def __init__(self, path: str | os.PathLike[str], *, make: bool = True) -> None:
        """`make`: create a missing file. Raises OSError."""
        self.file = OutputFile(path, make=make)
        #: Bytes of the output that are not in the file any more, because the file began anew.
        self.base = 0

    def end(self, seen: int) -> int:
        """The number of bytes that were printed; `seen` of them were read or passed over."""
        size = self.file.size()
        if self.base + size < seen:
            # The file was cut to nothing: its file system cannot free a part of a file.
            self.base = seen
        return self.base + size

    def read(self, position: int, length: int) -> tuple[int, bytes]:
        """The next bytes, and their position: a later one where those at `position` were given back to the disk."""
        at = max(position, self.base) - self.base
        data = self.file.read(at, length)
        kept = self.file.first_kept(at)
        # What was freed before the read, or in the middle of it, has come as zeros; what was freed after it is whole.
        if kept > at and b"\0" in data[: kept - at]:
            at, data = kept, data[kept - at :]
        return at + self.base, data

    def close(self) -> None:
        self.file.close()
