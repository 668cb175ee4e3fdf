"""Reads files from a tar archive while it comes, without ever unpacking it: each is one that was asked for."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from typing import IO, cast

from launch_worker.errors import DamagedError
from launch_worker.model.run_files import KeptFile

#: Bytes that are read at once.
_PIECE_BYTES = 1 << 20


class _Reader:
    """Pieces of bytes as a file that is read from its beginning to its end."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, size: int) -> bytes:
        some = [self._rest]
        count = len(self._rest)
        while count < size and (piece := next(self._pieces, b"")):
            some.append(piece)
            count += len(piece)
        data = b"".join(some)
        self._rest = data[size:]
        return data[:size]


def contents(
    pieces: Iterator[bytes], prefix: str, files: Sequence[KeptFile]
) -> Iterator[tuple[KeptFile, Iterator[bytes]]]:
    """Each of these files as it comes, with its content, which is to be taken before the next one.

    Their names in the archive begin with `prefix`. Raises DamagedError for an archive that has something else, as of a
    server of an older release, or that ends too early.
    """
    wanted = {prefix + file.path: file for file in files}
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", _Reader(pieces)), mode="r|", bufsize=_PIECE_BYTES) as archive:
            for entry in archive:
                file, content = wanted.pop(entry.name, None), archive.extractfile(entry)
                if file is None or not entry.isreg() or content is None:
                    raise DamagedError(f"the archive has {entry.name[:100]!r}, which was not asked for")
                yield file, iter(lambda content=content: content.read(_PIECE_BYTES), b"")  # type: ignore[misc]
    except tarfile.TarError as error:
        raise DamagedError(f"the archive cannot be read: {error}") from None
    if wanted:
        raise DamagedError(f"the archive lacks {min(wanted)[:100]!r}")
