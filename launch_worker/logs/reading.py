"""Reads an attempt's output as one stream: its stored part, then Redis' newest; and says how much is missing where."""

from __future__ import annotations

import bisect
import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from launch_worker.errors import InputError, LaunchError
from launch_worker.logs.manifest import Manifest, Segment
from launch_worker.logs.stored import StoredLogs
from launch_worker.model.log_pieces import LOST, Gap, Piece, lines_of
from launch_worker.model.run import Record
from launch_worker.redis_url import mask_url
from launch_worker.store.logs import LogChunk, Times
from launch_worker.store.store import Store
from launch_worker.untrusted.patterns import PatternError, searcher, weight_of

#: Blocks that are read from the store at once.
_BLOCKS_AT_ONCE = 8
#: Bytes of text that is searched as a whole, before its lines are.
_SEARCHED = 8 << 10
#: Bytes of a line up to which it is searched as a whole.
_LONGEST_LINE = 1 << 20
#: Weight of a pattern up to which long texts are searched at once: a second for each million characters.
_LIGHT = 100
#: Seconds for a worker to store the rest of an attempt that has just ended.
_SETTLE_S = 3.0
#: Seconds since an attempt's end for which that is waited for.
_JUST_ENDED_S = 60.0
#: Parts of a pattern that mean another thing in a text of several lines than in each line.
_WHOLE_TEXT = re.compile(r"\\[AzZ]|\(\?[a-zA-Z]*[-ms]")


@dataclass(frozen=True)
class Part:
    """Output that can be read as a whole. `line` counts the line breaks before it, `lines` those in it."""

    offset: int
    length: int
    line: int
    lines: int
    at_ms: int
    #: Whether the lines before it are all counted.
    is_line_sure: bool
    #: Segment and number of the block, or the bytes themselves.
    block: tuple[Segment, int] | None = None
    data: bytes = b""
    #: Times of what it was joined of.
    times: Times | None = None

    @property
    def end(self) -> int:
        return self.offset + self.length

    @property
    def end_line(self) -> int:
        return self.line + self.lines

    @property
    def first_piece(self) -> int:
        """Bytes of it that came first; all, where it was joined of nothing."""
        later = bisect.bisect_right(self.times.offsets, self.offset) if self.times is not None else 0
        return (
            self.times.offsets[later] - self.offset if self.times and later < len(self.times.offsets) else self.length
        )


def stored_parts(manifest: Manifest) -> list[Part]:
    """What is stored, in order."""
    parts: list[Part] = []
    for segment in manifest.segments:
        offset, line, is_sure = segment.offset, segment.line, not segment.is_line_unsure
        for number, block in enumerate(segment.blocks):
            parts.append(Part(offset, block.length, line, block.lines, block.at_ms, is_sure, (segment, number)))
            offset, line, is_sure = offset + block.length, line + block.lines, True
    return parts


def with_live_parts(parts: list[Part], chunks: Sequence[LogChunk]) -> list[Part]:
    """The stored parts, and what Redis has after them."""
    joined = list(parts)
    for chunk in chunks:
        end, end_line = (joined[-1].end, joined[-1].end_line) if joined else (0, 0)
        known = max(0, end - chunk.offset)
        data = chunk.data[known:]
        if not data:
            continue
        line = None if chunk.line is None else chunk.line + chunk.data.count(b"\n", 0, known)
        joined.append(
            Part(
                chunk.offset + known,
                len(data),
                end_line if line is None else max(line, end_line),
                data.count(b"\n"),
                chunk.at_ms,
                line is not None or chunk.offset + known == end,
                data=data,
                times=chunk.times,
            )
        )
    return joined


def first_lines(pieces: Iterator[Piece], count: int | None) -> Iterator[Piece]:
    """The first lines of pieces; all for None."""
    left = count
    for piece in pieces:
        if left is None:
            yield piece
            continue
        if left <= 0:
            return
        breaks = piece.data.count(b"\n")
        if breaks < left:
            left -= breaks
            yield piece
        else:
            yield piece._replace(data=piece.data[: after_breaks(piece.data, left)])
            return


class Output:
    """One attempt's output. Each method reads only what it must, and yields pieces that begin at a line."""

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        stored: StoredLogs | None = None,
        end: int = 0,
        end_ms: int | None = None,
        why_missing: Callable[[], str] = lambda: LOST,
        read_again: Callable[[], Sequence[Part]] = lambda: (),
    ) -> None:
        """`end`: bytes of the output that are known of, kept or not; `end_ms`: time of the last of them.

        `why_missing` says where output is that comes after all that is stored, and is not in Redis. `read_again` gives
        the parts as they are now, where an object has gone because its output is in another one by now.
        """
        #: What is kept, in order.
        self.parts = parts
        self._stored = stored
        self._end = max(end, parts[-1].end if parts else 0)
        self._end_ms = end_ms
        #: Says where output is that comes after all that is stored.
        self.why_missing = why_missing
        self._read_again = read_again

    @property
    def end(self) -> int:
        """The number of bytes that are known of."""
        return self._end

    @property
    def lines(self) -> int:
        """The number of lines that are known of, an unfinished last one included."""
        if not self.parts:
            return 0
        last = self.parts[-1]
        return last.end_line + (0 if self.read_one(last).endswith(b"\n") else 1)

    @property
    def missing(self) -> int:
        """The number of bytes that are not there to be read."""
        return self._end - sum(part.length for part in self.parts)

    def all(self) -> Iterator[Piece]:
        """All that is kept."""
        return self._pieces(0, 0, 0)

    def from_line(self, number: int) -> Iterator[Piece]:
        """The lines from this number on, counted from 1."""
        breaks = max(0, number - 1)
        if breaks == 0:
            return self.all()
        # The part that has the line break before the line, or the first one after a gap in which it is.
        at = bisect.bisect_left(self.parts, breaks, key=lambda part: part.end_line)
        if at == len(self.parts):
            return iter(())
        part = self.parts[at]
        if part.line >= breaks:
            return self._pieces(at, 0, part.line)
        place = after_breaks(self.read_one(part), breaks - part.line)
        return self._pieces(at, place, breaks, skips_gap=True)

    def tail(self, count: int) -> Iterator[Piece]:
        """The last lines. Output that is missing before them is not mentioned."""
        if count <= 0 or not self.parts:
            return iter(())
        # The last line break begins no line.
        breaks = -1 if self.read_one(self.parts[-1]).endswith(b"\n") else 0
        for at in range(len(self.parts) - 1, -1, -1):
            part = self.parts[at]
            if breaks + part.lines >= count:
                data = self.read_one(part)
                place = len(data)
                for _ in range(count - breaks):
                    place = max(0, data.rfind(b"\n", 0, place))
                return self._pieces(at, place + 1, part.line + data.count(b"\n", 0, place + 1), skips_gap=True)
            breaks += part.lines
        return self.all()

    def since(self, at_ms: int) -> Iterator[Piece]:
        """The output from a time on, from the beginning of a line; stored output has the times of its blocks."""
        if self._end_ms is not None and at_ms > self._end_ms:
            return iter(())
        at = bisect.bisect_left(self.parts, at_ms, key=lambda part: part.at_ms)
        if at and self.parts[at - 1].block is not None:
            at -= 1  # a block has the time of its first output, and may have later one
        if at == len(self.parts):
            return iter(())
        part = self.parts[at]
        is_torn = at > 0 and self.parts[at - 1].end == part.offset
        if is_torn and not self.read_one(self.parts[at - 1]).endswith(b"\n"):
            return self.from_line(part.line + 1)
        return self._pieces(at, 0, part.line, skips_gap=True)

    @staticmethod
    def grep(pattern: str, pieces: Iterator[Piece]) -> Iterator[Piece]:
        """The lines of these pieces that have a pattern in them. Raises InputError for one that cannot be searched."""
        return _Search(pattern).lines(pieces)

    # -- reading ---------------------------------------------------------------------------------------------------

    def _pieces(self, first: int, place: int, line: int, *, skips_gap: bool = False) -> Iterator[Piece]:
        """The output from a place in a part on; output that is missing before that is left out with `skips_gap`."""
        before = self.parts[first - 1] if first else None
        end, end_line, is_at_line = (0, 0, True) if before is None else (before.end, before.end_line, True)
        is_torn, damage = False, ""
        if skips_gap:
            is_torn = place == 0 and self.parts[first].offset > end
            end, end_line = self.parts[first].offset, line
        for part, data in self.read(first):
            if isinstance(data, str):
                damage = data
                continue
            shown, number, gap = data[place:], part.line + 1, None
            if place:
                number = line + 1
            elif part.offset > end or is_torn:
                dropped = _torn(data, is_at_line=is_at_line)
                lines = data.count(b"\n", 0, dropped)
                shown, number = data[dropped:], part.line + lines + 1
                if part.offset > end:
                    known = part.line + lines - end_line if part.is_line_sure else None
                    is_late = part.block is None and (before is None or before.block is not None)
                    gap = Gap(part.offset + dropped - end, known, damage or (self.why_missing() if is_late else LOST))
            yield Piece(shown, number, gap)
            before, place, is_torn, damage = part, 0, False, ""
            end, end_line = part.end, part.end_line
            is_at_line = shown.endswith(b"\n") if shown else is_at_line
        if self._end > end:
            yield Piece(b"", end_line + 1, Gap(self._end - end, None, damage or self.why_missing()))

    def read(self, first: int) -> Iterator[tuple[Part, bytes | str]]:
        """The parts from one on, each with its bytes, or with a phrase that says why it cannot be read.

        Blocks that follow each other are read together, but for the first one, which may be all that is wanted.
        """
        parts, at, together, has_read_again = self.parts, first, 1, False
        while at < len(parts):
            part = parts[at]
            if part.block is None:
                yield part, part.data
                at += 1
                continue
            segment, number = part.block
            assert self._stored is not None
            try:
                for data in self._stored.blocks(segment, number, number + together):
                    yield parts[at], data
                    at += 1
                together = min(2 * together, _BLOCKS_AT_ONCE)
                has_read_again = False
                continue
            except FileNotFoundError:
                damage = f"cannot be read: {segment.name} is not in the store any more"
                if not has_read_again and (fresh := self._read_again()):
                    # From the same place on, which may be inside of a block by now.
                    has_read_again, parts = True, fresh
                    at = bisect.bisect_right(parts, part.offset, key=lambda other: other.end)
                    if at < len(parts) and parts[at].offset < part.offset:
                        yield self._rest_of(parts[at], part)
                        at += 1
                    continue
            except ValueError as error:
                damage = f"cannot be read: the stored {segment.name} is damaged ({error})"
            if together > 1:
                together = 1
                continue
            yield part, damage
            at += 1

    def _rest_of(self, part: Part, wanted: Part) -> tuple[Part, bytes]:
        """The part from the place of a wanted one on."""
        data = self.read_one(part)[wanted.offset - part.offset :]
        rest = replace(part, offset=wanted.offset, length=len(data), line=wanted.line, lines=data.count(b"\n"))
        return rest, data

    def read_one(self, part: Part) -> bytes:
        """The bytes of one part; none where it is damaged."""
        if part.block is None:
            return part.data
        assert self._stored is not None
        segment, number = part.block
        try:
            return next(self._stored.blocks(segment, number, number + 1))
        except (ValueError, FileNotFoundError):
            return b""


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
            for first in range(0, len(segment.blocks), _BLOCKS_AT_ONCE):
                blocks = segment.blocks[first : first + _BLOCKS_AT_ONCE]
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


class _Search:
    """Finds lines: whole texts are searched first, so that few lines are looked at one by one."""

    def __init__(self, pattern: str) -> None:
        try:
            self._has = searcher(pattern)
        except PatternError as error:
            raise InputError(f"{pattern[:60]!r} cannot be searched for: {error}") from None
        self._may_have: Callable[[str], bool] | None = None
        # Of a pattern that repeats much only the beginning of a long line is searched: nothing else runs meanwhile.
        is_light = weight_of(pattern) <= _LIGHT
        self._most_chars = None if is_light else _SEARCHED
        if is_light and not _WHOLE_TEXT.search(pattern):
            with contextlib.suppress(PatternError):  # too long with the words around it
                self._may_have = searcher(f"(?m:{pattern})")

    def lines(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        rest, last = b"", Piece(b"", 1)
        for piece in pieces:
            if piece.gap is not None:
                yield from self._found(rest, last.line + last.data.count(b"\n"))
                rest = b""
                yield Piece(b"", piece.line, piece.gap)
            # A piece that follows the last one begins in the line of the rest.
            last = piece
            cut = piece.data.rfind(b"\n") + 1
            if cut:
                yield from self._found(rest + piece.data[:cut], piece.line)
                rest = piece.data[cut:]
            else:
                rest += piece.data
            if len(rest) > _LONGEST_LINE:
                yield from self._found(rest, piece.line + piece.data.count(b"\n"))
                rest = b""
        yield from self._found(rest, last.line + last.data.count(b"\n"))

    def _found(self, data: bytes, line: int) -> Iterator[Piece]:
        if not data or not self._may_be_in(data):
            return
        place = 0
        while place < len(data):
            end = data.find(b"\n", place + _SEARCHED) + 1 or len(data)
            text = data[place:end]
            if len(text) == len(data) or self._may_be_in(text):
                for number, one in enumerate(lines_of(text)):
                    if self._has(one.rstrip(b"\r\n").decode("utf-8", "replace")[: self._most_chars]):
                        yield Piece(one, line + number)
            place, line = end, line + text.count(b"\n")

    def _may_be_in(self, data: bytes) -> bool:
        return self._may_have is None or self._may_have(data.decode("utf-8", "replace"))


def _torn(data: bytes, *, is_at_line: bool) -> int:
    """The number of first bytes that belong to a line or character whose beginning is missing."""
    newline = data.find(b"\n", 0, -1)
    if newline >= 0:
        # After the shown beginning of a torn line, the first line is that line's end.
        return newline + 1 if is_at_line else newline
    return next((at for at, byte in enumerate(data[:4]) if not 0x80 <= byte < 0xC0), 0)


def after_breaks(data: bytes, count: int) -> int:
    """The place after this number of line breaks; the end where there are fewer."""
    lines = data.split(b"\n", count)
    return len(data) - (len(lines[-1]) if len(lines) > count else 0)
