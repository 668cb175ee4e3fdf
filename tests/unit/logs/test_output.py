"""An output that is cut into stored blocks and live chunks in any way reads as the output that it is."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch_worker.errors import InputError
from launch_worker.logs import zstd
from launch_worker.logs.manifest import Block, Manifest, Segment
from launch_worker.logs.opening import read_stored
from launch_worker.logs.output import Output
from launch_worker.logs.parts import first_lines, stored_parts, with_live_parts
from launch_worker.logs.stored import StoredLogs
from launch_worker.model.log_pieces import Gap, Piece
from launch_worker.model.run import Record
from launch_worker.store.logs import LogChunk

RUN = "1m83cyvtfq1tc69"

TEXTS = st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\n\n", b"d\n", "ä€".encode(), b"\r\n", b"\x00"])).map(b"".join)


class Kept(StoredLogs):
    """Objects in memory."""

    def __init__(self) -> None:
        super().__init__("memory://logs")
        self._count = 0

    def segment(self, offset: int, line: int, blocks: list[bytes], at_ms: int = 0) -> Segment:
        frames = [zstd.compress(block) for block in blocks]
        self._count += 1
        name = f"{RUN}/1/{offset}-{self._count}.zst"
        self.objects.put(name, frames)
        known = [
            Block(len(block), len(frame), block.count(b"\n"), at_ms + number)
            for number, (block, frame) in enumerate(zip(blocks, frames, strict=True))
        ]
        return Segment(name, 0, offset, line, tuple(known))


def manifest_of(*segments: Segment) -> Manifest:
    made = Manifest(RUN, 1, 7)
    for segment in segments:
        made = made.with_segment(segment, end_ms=10**6)
    return made


def cut(data: bytes, places: list[int]) -> list[tuple[int, bytes]]:
    """The pieces of a text, each with its position."""
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [(begin, data[begin:end]) for begin, end in itertools.pairwise(edges)]


def output_of(data: bytes, places: list[int], stored_to: int, live_from: int) -> Output:
    """The pieces up to a place are stored, two blocks a segment; those from a place on are live, and may be both."""
    kept, segments, chunks = Kept(), [], []
    pieces = cut(data, places)
    stored = [piece for piece in pieces if piece[0] < stored_to]
    for at in range(0, len(stored), 2):
        group = stored[at : at + 2]
        segments.append(kept.segment(group[0][0], data[: group[0][0]].count(b"\n"), [text for _, text in group]))
    for offset, text in pieces:
        if offset >= live_from:
            chunks.append(LogChunk(f"{2 * 10**6 + offset}-0", offset, text, data[:offset].count(b"\n")))
    parts = with_live_parts(stored_parts(manifest_of(*segments)), chunks)
    return Output(parts, stored=kept, end=len(data))


def text_of(pieces: Iterator[Piece]) -> bytes:
    return b"".join(piece.data for piece in pieces)


def lines_of(data: bytes) -> list[bytes]:
    lines = [line + b"\n" for line in data.split(b"\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]


@given(TEXTS, st.lists(st.integers(0, 10**6), max_size=8), st.integers(0, 40), st.integers(1, 12), st.integers(0, 5))
def test_any_cut_of_an_output_reads_as_the_output(
    data: bytes, places: list[int], overlap: int, number: int, count: int
) -> None:
    for stored_to, live_from in ((0, 0), (10**9, 10**9), (len(data) // 2, max(0, len(data) // 2 - overlap))):
        starts = [begin for begin, _ in cut(data, places)]
        # No gap: live output begins at a cut at or before the stored end.
        live = max((begin for begin in starts if begin <= live_from), default=0) if live_from < 10**9 else live_from
        stored = min((begin for begin in starts if begin >= stored_to), default=len(data)) if stored_to else 0
        output = output_of(data, places, stored, min(live, stored) if stored_to < 10**9 else live_from)
        lines = lines_of(data)
        assert text_of(output.all()) == data
        assert [piece.gap for piece in output.all() if piece.gap] == []
        assert text_of(output.from_line(number)) == b"".join(lines[number - 1 :])
        assert text_of(first_lines(output.from_line(number), count)) == b"".join(lines[number - 1 :][:count])
        assert text_of(output.tail(count)) == b"".join(lines[-count:] if count else ())
        assert text_of(output.grep("[ad]", output.all())) == b"".join(
            line for line in lines if b"a" in line or b"d" in line
        )
        assert output.lines == len(lines)


def numbers(first: int, last: int) -> bytes:
    return b"".join(b"%d\n" % number for number in range(first, last + 1))


def gapped() -> tuple[Output, bytes]:
    """Lines 1 to 1000, of which about 101 to 200 are lost, and about 501 to 600 are not stored yet."""
    data, kept = numbers(1, 1000), Kept()
    lost, later, live = data.index(b"\n101\n") + 3, data.index(b"\n200\n") + 2, data.index(b"\n600\n") + 2
    middle = data.index(b"\n500\n") + 5
    segments = [
        kept.segment(0, 0, [data[:lost]], at_ms=1000),
        kept.segment(later, data[:later].count(b"\n"), [data[later:middle]], at_ms=2000),
    ]
    chunk = LogChunk("9000-0", live, data[live:], data[:live].count(b"\n"))
    parts = with_live_parts(stored_parts(manifest_of(*segments)), [chunk])
    return Output(parts, stored=kept, end=len(data), why_missing=lambda: "are on their way"), data


def test_what_is_missing_is_counted_where_it_is_and_what_follows_begins_at_a_line() -> None:
    output, data = gapped()
    pieces = list(output.all())
    gaps = [piece.gap for piece in pieces if piece.gap is not None]
    shown = text_of(iter(pieces))
    assert [gap.why for gap in gaps] == ["are kept nowhere", "are on their way"]
    assert sum(gap.bytes for gap in gaps) + len(shown) == len(data)
    assert str(gaps[0]) == f"… {gaps[0].bytes} bytes (99 lines) of output before this are kept nowhere"
    assert shown.split() == [*numbers(1, 100).split(), b"10", *numbers(201, 500).split(), *numbers(601, 1000).split()]
    for piece in pieces:
        first = piece.data.lstrip(b"\n").partition(b"\n")[0]
        if piece.gap and piece.data:
            assert int(first) == piece.line + (1 if piece.data.startswith(b"\n") else 0)


def test_a_line_is_found_by_its_number_behind_gaps_and_one_in_a_gap_begins_after_it() -> None:
    output, _ = gapped()
    assert text_of(first_lines(output.from_line(300), 2)) == b"300\n301\n"
    assert text_of(first_lines(output.from_line(700), 1)) == b"700\n"
    [piece, *_] = first_lines(output.from_line(550), 1)
    assert (piece.data.strip(), piece.gap is not None) == (b"601", True)
    assert text_of(output.tail(3)) == numbers(998, 1000)


def test_output_since_a_time_begins_at_the_block_that_reaches_beyond_it() -> None:
    output, _ = gapped()
    assert text_of(output.since(500)).startswith(b"1\n")
    assert text_of(output.since(1500)).startswith(b"1\n"), "the first block may have been printed until 2000"
    assert text_of(output.since(2500)).split()[0] == b"201"
    assert text_of(output.since(9500)) == b""


def test_lines_that_nobody_counted_are_not_made_up() -> None:
    gap = Gap(5, None, "are kept nowhere")
    assert str(gap) == "… 5 bytes of output before this are kept nowhere"
    parts = with_live_parts([], [LogChunk("1-0", 100, b"tail\n", None)])
    [piece] = Output(parts).all()
    assert piece.gap == Gap(100, None, "are kept nowhere")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("^b$", [b"b\n"]),
        (r"\Ab\z", [b"b\n"]),
        ("(?i)A", [b"a\n", b"Abc"]),
        ("a[^x]b", []),
        ("(?x) b # a comment", [b"b\n", b"Abc"]),
        ("(?-m)^b", [b"b\n"]),
    ],
)
def test_a_pattern_means_in_a_log_what_it_means_in_each_line(pattern: str, found: list[bytes]) -> None:
    data = b"a\nb\n\xff\nAbc"
    output = output_of(data, [2], len(data), 10**9)
    assert [piece.data for piece in output.grep(pattern, output.all())] == found


def test_a_pattern_that_cannot_be_searched_in_bounded_time_is_refused() -> None:
    for pattern in ("(", r"(a)\1", "a" * 501):
        with pytest.raises(InputError, match="cannot be searched for"):
            list(Output.grep(pattern, iter(())))


def test_a_line_without_end_is_searched_in_parts() -> None:
    chunks = [LogChunk(f"{at}-0", at << 19, bytes(1 << 19), 0) for at in range(8)]
    chunks.append(LogChunk("9-0", 8 << 19, b"needle\n", 0))
    output = Output(with_live_parts([], chunks))
    [piece] = output.grep("needle", output.all())
    assert piece.data.endswith(b"needle\n")
    assert len(piece.data) <= 2 << 20


def test_blocks_that_moved_while_they_are_read_are_found_in_their_new_object() -> None:
    data, kept = numbers(1, 1000), Kept()
    second = kept.segment(300, data[:300].count(b"\n"), [data[300:400], data[400:]])
    old = manifest_of(kept.segment(0, 0, [data[:100], data[100:300]]), second)
    new = manifest_of(kept.segment(0, 0, [data[:350], data[350:500], data[500:]]))
    output = Output(stored_parts(old), stored=kept, read_again=lambda: stored_parts(new))
    pieces = output.all()
    first = next(pieces)
    kept.objects.delete(old.names - new.names)
    assert first.data + text_of(pieces) == data


@given(TEXTS, st.lists(st.integers(0, 100), max_size=40), st.integers(0, 100), st.integers(0, 100))
def test_a_range_of_a_stored_output_is_read_as_it_was_printed(data: bytes, places: list[int], a: int, b: int) -> None:
    kept, segments = Kept(), []
    pieces = cut(data, places)
    for at in range(0, len(pieces), 20):
        some = pieces[at : at + 20]
        segments.append(kept.segment(some[0][0], 0, [block for _, block in some]))
    kept.put_manifest(manifest_of(*segments))
    record = Record(id=RUN, attempt=1, token=7)
    start, end = min(a, b), max(a, b)
    found = b""
    for position, part in read_stored("memory://logs", record, 1, start, end):
        assert position == start + len(found)
        found += part
    assert found == data[start:end]


def test_a_range_of_what_another_run_of_the_same_id_has_stored_is_empty() -> None:
    kept = Kept()
    kept.put_manifest(manifest_of(kept.segment(0, 0, [b"another run\n"])))
    assert not list(read_stored("memory://logs", Record(id=RUN, attempt=1, token=8), 1, 0, 100))
