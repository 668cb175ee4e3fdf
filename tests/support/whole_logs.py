"""Whole logs as a worker stores them, without one."""

from __future__ import annotations

from launch_worker.logs import zstd
from launch_worker.logs.manifest import BLOCK_BYTES, Block, Manifest, Segment
from launch_worker.logs.stored import StoredLogs
from launch_worker.model.run import Record


def store_log(
    url: str, record: Record, data: bytes, *, is_complete: bool = True, block_bytes: int = BLOCK_BYTES, at_ms: int = 0
) -> Manifest:
    """Keep this output of the record's attempt as one object; each block is a second later than the one before."""
    stored = StoredLogs(url)
    frames: list[bytes] = []
    blocks: list[Block] = []
    for start in range(0, len(data), block_bytes):
        block = data[start : start + block_bytes]
        frames.append(zstd.compress(block))
        blocks.append(Block(len(block), len(frames[-1]), block.count(b"\n"), at_ms + 1000 * len(blocks)))
    manifest = Manifest(record.id, record.attempt, record.token, is_complete=is_complete)
    if blocks:
        name = f"{record.id}/{record.attempt}/whole-0.zst"
        stored.objects.put(name, frames)
        manifest = manifest.with_segment(Segment(name, 0, 0, 0, tuple(blocks)), end_ms=blocks[-1].at_ms + 1000)
    stored.put_manifest(manifest)
    return manifest
