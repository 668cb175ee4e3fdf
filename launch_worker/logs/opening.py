"""Opens an attempt's output, wherever it is: in the store of logs, in Redis, in a pack of the archive."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from launch_worker.errors import InputError, LaunchError
from launch_worker.logs.manifest import Manifest
from launch_worker.logs.output import Output
from launch_worker.logs.parts import Part, stored_parts, with_live_parts
from launch_worker.logs.stored import BLOCKS_AT_ONCE, StoredLogs
from launch_worker.model.log_pieces import LOST
from launch_worker.model.run import Record
from launch_worker.redis_url import mask_url
from launch_worker.store.logs import LogChunk
from launch_worker.store.store import Store

#: Seconds for a worker to store the rest of an attempt that has just ended.
_SETTLE_S = 3.0
#: Seconds since an attempt's end for which that is waited for.
_JUST_ENDED_S = 60.0


def open_output(
    store: Store,
    run_id: str,
    attempt: int,
    *,
    url: str,
    record: Record | None,
    read_live: Callable[[], Sequence[LogChunk]] | None = None,
) -> Output:
    """The output of an attempt. `url` is LAUNCH_LOG_URL; `record` is None where Redis has the run no more.

    `read_live` reads what Redis has of it; joined chunks do not go with `Output.since`. Raises LaunchError for a store
    that does not answer, if nothing at all can be read.
    """
    if read_live is None:
        read_live = partial(store.log, run_id, attempt)
    stored: StoredLogs | None = None
    problem = ""
    try:
        stored = StoredLogs(url) if url else None
        manifest = _manifest(stored, run_id, attempt, record)
    except LaunchError as error:
        if record is None:
            raise
        manifest, problem = None, str(error)
    if manifest is not None and manifest.is_complete:
        return stored_output(manifest, stored)
    chunks = read_live()
    if (
        stored is not None
        and not problem
        and record is not None
        and _is_awaited(record, attempt, manifest, chunks, stored)
    ):
        deadline = time.monotonic() + _SETTLE_S
        while time.monotonic() < deadline and (manifest is None or not manifest.is_complete):
            time.sleep(0.05)
            manifest = _manifest(stored, run_id, attempt, record)
        if manifest is not None and manifest.is_complete:
            return stored_output(manifest, stored)

    def why_missing() -> str:
        kept_at = "" if record is None else record.log_url
        if problem:
            return f"cannot be read now: {problem}"
        if url and kept_at in ("", mask_url(url)) and (kept_at or manifest is not None):
            worker = "its worker" if record is None else f"worker {record.worker}"
            return f"are not in the store yet, but on the disk of {worker}"
        return f"are kept at {kept_at}; set LAUNCH_LOG_URL as there to read them" if kept_at else LOST

    def parts() -> list[Part]:
        known = _manifest(stored, run_id, attempt, record)
        return with_live_parts([] if known is None else stored_parts(known), read_live())

    return Output(
        with_live_parts([] if manifest is None else stored_parts(manifest), chunks),
        stored=stored,
        end=0 if manifest is None else manifest.end,
        why_missing=why_missing,
        read_again=parts,
    )


def read_stored(url: str, record: Record, attempt: int, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """What is stored of a running attempt's output from one byte to another: pieces, each with its first byte's number.

    It ends early where the store does not answer, or has the rest under another name by now.
    """
    with contextlib.suppress(LaunchError, FileNotFoundError, ValueError):
        stored = StoredLogs(url)
        manifest = _manifest(stored, record.id, attempt, record)
        for segment in manifest.segments if manifest is not None else ():
            if segment.end <= start or segment.offset >= end:
                continue
            place = segment.offset
            for first in range(0, len(segment.blocks), BLOCKS_AT_ONCE):
                blocks = segment.blocks[first : first + BLOCKS_AT_ONCE]
                size = sum(block.length for block in blocks)
                if place + size > start and place < end:
                    for data in stored.blocks(segment, first, first + len(blocks)):
                        wanted = data[max(0, start - place) : max(0, end - place)]
                        if wanted:
                            yield max(place, start), wanted
                        place += len(data)
                else:
                    place += size


def latest_stored(url: str, run_id: str, attempt: int | None) -> int:
    """The latest stored attempt of a run that Redis has no more, or this one; 0 for none. Raises LaunchError."""
    found = StoredLogs(url).attempts(run_id)
    return max((number for number in found if attempt in (None, number)), default=0)


def open_past_output(
    run_id: str,
    attempt: int,
    *,
    url: str,
    packed: Manifest | None,
    is_packed: bool,
    kept_at: str,
    find_again: Callable[[], Manifest | None],
) -> Output:
    """The output of an attempt of which only the archive knows.

    `packed` is its manifest in a pack, and `find_again` gives that as it is now; `is_packed`: an output without such a
    manifest is empty, or has a log of its own. `kept_at` is where the worker said that this is. Raises InputError where
    nothing of it can be read, and LaunchError.
    """
    if not url and (kept_at or packed is not None):
        where = f" to {kept_at}" if kept_at else " as for the archive's process"
        raise InputError(f"the output of run {run_id} is in the store of logs; set LAUNCH_LOG_URL{where} to read it")
    stored = StoredLogs(url) if url else None
    whole = _manifest(stored, run_id, attempt, None)
    if whole is not None and (whole.is_complete or packed is None or not packed.segments):
        return stored_output(whole, stored)
    if packed is None and (is_packed or not attempt):
        return Output([])
    if packed is None:
        raise InputError(
            f"the output of run {run_id}, attempt {attempt}, is kept nowhere: Redis has forgotten the run, and the "
            "archive had no LAUNCH_LOG_URL to keep the output"
        )
    assert stored is not None
    if whole is None:
        return stored_output(packed, stored, find_again=find_again)
    chunks = [
        LogChunk(f"{part.at_ms}-0", part.offset, data, part.line if part.is_line_sure else None)
        for part in stored_parts(packed)
        if part.block is not None
        for data in stored.blocks(part.block[0], part.block[1], part.block[1] + 1)
    ]
    return Output(with_live_parts(stored_parts(whole), chunks), stored=stored, end=max(whole.end, packed.end))


def stored_output(
    manifest: Manifest, stored: StoredLogs | None, *, find_again: Callable[[], Manifest | None] | None = None
) -> Output:
    """An output of which nothing is elsewhere than in the store. `find_again` gives its manifest as it is now."""

    def parts() -> list[Part]:
        assert stored is not None
        known = find_again() if find_again else stored.manifest(manifest.run_id, manifest.attempt)
        return [] if known is None else stored_parts(known)

    parts_now = stored_parts(manifest)
    return Output(parts_now, stored=stored, end=manifest.end, end_ms=manifest.end_ms, read_again=parts)


def _manifest(stored: StoredLogs | None, run_id: str, attempt: int, record: Record | None) -> Manifest | None:
    """What is stored of the attempt; nothing for a manifest of another run that had the same id."""
    if stored is None:
        return None
    try:
        manifest = stored.manifest(run_id, attempt)
    except ValueError as error:
        raise LaunchError(f"the manifest of run {run_id}, attempt {attempt}, is damaged: {error}") from None
    if manifest is None or record is None or record.attempt != attempt or record.token == manifest.token:
        return manifest
    return None


def _is_awaited(
    record: Record, attempt: int, manifest: Manifest | None, chunks: Sequence[LogChunk], stored: StoredLogs
) -> bool:
    """Whether an attempt that has just ended has output that its worker is about to store."""
    end = 0 if manifest is None else manifest.end
    if not chunks or chunks[0].offset <= end or record.log_url != stored.objects.shown:
        return False
    if attempt < record.attempt:
        return True
    return record.ended_at is not None and time.time() - record.ended_at / 1e6 < _JUST_ENDED_S
