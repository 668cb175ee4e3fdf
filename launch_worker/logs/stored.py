"""Keeps segments and manifests of whole logs below LAUNCH_LOG_URL, and reads them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from launch_worker.errors import DamagedError
from launch_worker.logs import zstd
from launch_worker.logs.manifest import MAX_BYTES, Manifest, Segment
from launch_worker.objects import Objects

_MANIFEST = "manifest.json"
#: Blocks that are read at once where more than one is wanted.
BLOCKS_AT_ONCE = 8


class StoredLogs:
    """The whole logs below one URL. Each call raises LaunchError while the store does not answer."""

    def __init__(self, url: str) -> None:
        self.objects = Objects(url, setting="LAUNCH_LOG_URL", what="logs")

    def manifest(self, run_id: str, attempt: int) -> Manifest | None:
        """What is stored of the attempt; None for nothing. Raises ValueError for a damaged manifest."""
        try:
            text = self.objects.get_small(f"{run_id}/{attempt}/{_MANIFEST}", most_bytes=MAX_BYTES)
            return Manifest.from_json(text)
        except FileNotFoundError:
            return None

    def attempts(self, run_id: str) -> list[int]:
        """The attempts of which something is stored, in order."""
        pattern = re.compile(rf"{re.escape(run_id)}/([0-9]{{1,9}})/{re.escape(_MANIFEST)}")
        return sorted(int(match[1]) for name in self.objects.names(run_id) if (match := pattern.fullmatch(name)))

    def put_manifest(self, manifest: Manifest) -> None:
        self.objects.put(f"{manifest.run_id}/{manifest.attempt}/{_MANIFEST}", [manifest.to_json()])

    def blocks(self, segment: Segment, first: int = 0, last: int | None = None) -> Iterator[bytes]:
        """The output of a segment's blocks, read at once. Raises FileNotFoundError, ValueError for a damaged one."""
        blocks = segment.blocks[first:last]
        start = segment.place + sum(block.stored for block in segment.blocks[:first])
        size = sum(block.stored for block in blocks)
        data = self.objects.get(segment.name, start, start + size)
        if len(data) != size:
            raise ValueError(f"{segment.name} is shorter than its manifest says")
        place = 0
        for block in blocks:
            yield zstd.decompress(data[place : place + block.stored], block.length)
            place += block.stored

    def frames(self, segment: Segment) -> bytes:
        """The compressed bytes of a segment. Raises DamagedError for one that is gone or cut."""
        try:
            data = self.objects.get(segment.name, segment.place, segment.place + segment.stored)
        except FileNotFoundError:
            data = b""
        if len(data) != segment.stored:
            raise DamagedError(f"{segment.name} is gone, or shorter than its manifest says")
        return data

    def delete_unnamed(self, manifest: Manifest) -> None:
        """Delete what an interrupted worker has left beside the attempt's manifest."""
        folder = f"{manifest.run_id}/{manifest.attempt}"
        keep = {*manifest.names, f"{folder}/{_MANIFEST}"}
        self.objects.delete(name for name in self.objects.names(folder) if name not in keep)

    def runs(self) -> set[str]:
        """The runs of which something is stored, and other folders."""
        return set(self.objects.folders())

    def delete_run(self, run_id: str) -> None:
        """Delete all that is stored of a run."""
        self.objects.delete_folder(run_id)
