"""Compares the whole logs of floods with what their jobs printed: each byte is as it was, or counted as missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from launch_worker.errors import LaunchError
from launch_worker.logs.opening import stored_output
from launch_worker.logs.stored import StoredLogs
from launch_worker.model.states import RunState
from tests.chaos.verify import RunFacts

#: Bytes of a line, and of the output that Redis keeps: a flood of no more than that is stored nowhere else.
_LINE, _IN_REDIS = 64, 1 << 20


def waiting(spool: Path) -> list[str]:
    """The outputs of ended attempts that are not stored yet."""
    folder = spool / "logs"
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def check_whole_logs(url: str, runs: Sequence[RunFacts]) -> Iterator[str]:
    """What is wrong with the logs of floods that were printed to their ends."""
    stored = StoredLogs(url)
    for run in runs:
        if not run.last_line or "disk was full" in run.record.message:
            continue  # output that was dropped before the file had it is counted by nobody
        size = run.flood_bytes
        for attempt in run.attempts:
            if attempt.state is RunState.FINISHED and attempt.number in run.logs and size > _IN_REDIS:
                problem = _problem(stored, run.record.id, attempt.number, size)
                if problem:
                    yield f"{run.record.id}: attempt {attempt.number}: its whole log {problem}"


def _problem(stored: StoredLogs, run_id: str, attempt: int, size: int) -> str:
    try:
        manifest = stored.manifest(run_id, attempt)
        if manifest is None or not manifest.is_complete:
            return "is not stored"
        end = 0
        for piece in stored_output(manifest, stored).all():
            begin = end + (piece.gap.bytes if piece.gap else 0)
            end = begin + len(piece.data)
            if piece.data != printed(begin, end):
                return f"is not as it was printed, from byte {begin} to {end}"
    except (LaunchError, ValueError) as error:
        return f"cannot be read: {error}"
    return "" if end == size else f"has {end} bytes, kept or counted, of {size}"


def printed(begin: int, end: int) -> bytes:
    """Bytes of a flood."""
    first = begin // _LINE
    lines = b"".join(b"%-63d\n" % number for number in range(first, -(-end // _LINE)))
    return lines[begin - first * _LINE : end - first * _LINE]
