"""Packs the outputs of many attempts, small enough for Redis, into one object before Redis forgets them.

    packs/NAME.zst      the frames of all of them, one attempt after the other
    packs/NAME.json     their manifests

The archive keeps each manifest with its run, by which `reading` finds the output; the second object tells the same to
those who have the store alone.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from launch_worker.logs import zstd
from launch_worker.logs.manifest import BLOCK_BYTES, Block, Manifest, Segment
from launch_worker.logs.stored import StoredLogs
from launch_worker.store.logs import LogChunk
from launch_worker.untrusted.text import read_json

#: Characters of a pack's manifests at most.
_MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class SmallLog:
    """What Redis has of an attempt's output (`Store.log`)."""

    run_id: str
    attempt: int
    token: int
    chunks: Sequence[LogChunk]


def new_name() -> str:
    """A name for a pack, which no other one has."""
    return f"{time.strftime('%Y%m%d', time.gmtime())}-{secrets.token_hex(6)}"


def pack(stored: StoredLogs, name: str, logs: Iterable[SmallLog]) -> list[Manifest]:
    """Write one object with all of these outputs, then their manifests, which are returned.

    One output at a time is held. Raises LaunchError; what was written then is in no manifest.
    """
    manifests: list[Manifest] = []
    place = 0

    def frames() -> Iterator[bytes]:
        nonlocal place
        for log in logs:
            manifest = Manifest(log.run_id, log.attempt, log.token, is_complete=True)
            for offset, line, at_ms, data in _joined(log.chunks):
                blocks, begin = [], place
                for start in range(0, len(data), BLOCK_BYTES):
                    block = data[start : start + BLOCK_BYTES]
                    frame = zstd.compress(block)
                    yield frame
                    blocks.append(Block(len(block), len(frame), block.count(b"\n"), at_ms))
                    place += len(frame)
                segment = Segment(
                    f"packs/{name}.zst",
                    begin,
                    offset,
                    manifest.end_line if line is None else line,
                    tuple(blocks),
                    is_line_unsure=line is None,
                )
                manifest = manifest.with_segment(segment, end_ms=log.chunks[-1].at_ms)
            manifests.append(manifest)

    _put(stored, name, frames(), manifests)
    return manifests


def pack_again(stored: StoredLogs, name: str, kept: Iterable[Manifest]) -> list[Manifest]:
    """Write a pack of outputs that are in other packs; returns their manifests in this one.

    Raises LaunchError, DamagedError where one of the other packs is gone or cut.
    """
    manifests: list[Manifest] = []
    place = 0

    def frames() -> Iterator[bytes]:
        nonlocal place
        for manifest in kept:
            segments = []
            for segment in manifest.segments:
                yield stored.frames(segment)
                segments.append(replace(segment, name=f"packs/{name}.zst", place=place))
                place += segment.stored
            manifests.append(replace(manifest, segments=tuple(segments)))

    _put(stored, name, frames(), manifests)
    return manifests


def _put(stored: StoredLogs, name: str, frames: Iterator[bytes], manifests: Sequence[Manifest]) -> None:
    """Write a pack; the manifests are known when all frames are taken. Redis forgets what was packed."""
    stored.objects.put(f"packs/{name}.zst", frames, on_disk=True)
    text = json.dumps([manifest.to_json().decode() for manifest in manifests]).encode()
    stored.objects.put(f"packs/{name}.json", [text], on_disk=True)


def read_pack(stored: StoredLogs, name: str) -> list[Manifest]:
    """The manifests of a pack; none for one that is not there. Raises LaunchError, ValueError for a damaged one."""
    try:
        said = stored.objects.get_small(f"packs/{name}.json", most_bytes=_MAX_BYTES)
        texts = read_json(said, max_chars=_MAX_BYTES)
    except FileNotFoundError:
        return []
    if not isinstance(texts, list):
        raise ValueError("it is no list of manifests")
    return [Manifest.from_json(str(text).encode()) for text in texts]


def delete_pack(stored: StoredLogs, name: str) -> None:
    """Delete a pack of which no run is left. Raises LaunchError."""
    stored.objects.delete([f"packs/{name}.json", f"packs/{name}.zst"])


def _joined(chunks: Sequence[LogChunk]) -> Iterator[tuple[int, int | None, int, bytes]]:
    """The chunks with those joined that follow each other: offset, line breaks before, time and data."""
    together: list[LogChunk] = []
    for chunk in chunks:
        if together and together[-1].offset + len(together[-1].data) != chunk.offset:
            yield _one(together)
            together = []
        together.append(chunk)
    if together:
        yield _one(together)


def _one(chunks: Sequence[LogChunk]) -> tuple[int, int | None, int, bytes]:
    first = chunks[0]
    line = 0 if first.line is None and first.offset == 0 else first.line
    return first.offset, line, first.at_ms, b"".join(chunk.data for chunk in chunks)
