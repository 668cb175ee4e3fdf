"""Lines of an output have the numbers and texts that they have in the whole of it, however it is cut and kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch_worker.logs import numbered
from launch_worker.logs.numbered import Numbered, last_written
from launch_worker.logs.output import Output
from launch_worker.logs.parts import stored_parts, with_live_parts
from launch_worker.store.logs import LogChunk
from tests.unit.logs.test_output import TEXTS, Kept, cut, manifest_of, output_of

PLACES = st.lists(st.integers(0, 200), max_size=6)


def plain(data: bytes) -> dict[int, str]:
    """Each line by its number."""
    lines = data.split(b"\n")
    found = {at: last_written(line).decode("utf-8", "replace") for at, line in enumerate(lines, 1)}
    if not lines[-1]:
        del found[len(lines)]
    return found


def shown(output: Numbered, first: int = 1, count: int = 10**6) -> dict[int, str]:
    return {line.number: line.text for line in output.lines(first, count)}


@given(TEXTS, PLACES, st.integers(0, 60), st.integers(0, 60), st.integers(1, 9), st.integers(0, 5))
def test_lines_of_a_whole_output(data: bytes, places: list[int], edge: int, both: int, first: int, count: int) -> None:
    output = Numbered(output_of(data, places, edge, max(0, edge - both)))
    expected = plain(data)
    assert output.count == len(expected)
    assert output.is_open == (bool(data) and not data.endswith(b"\n"))
    assert shown(output) == expected
    assert shown(output, first, count) == {at: expected[at] for at in range(first, first + count) if at in expected}


@given(TEXTS, PLACES, st.data())
def test_lines_after_gaps_have_their_numbers(data: bytes, places: list[int], draw: st.DataObject) -> None:
    pieces = cut(data, places)
    kept = [piece for piece in pieces if draw.draw(st.booleans())]
    chunks = [LogChunk(f"{offset}-0", offset, text, data[:offset].count(b"\n")) for offset, text in kept]
    output = Numbered(Output(with_live_parts([], chunks), end=len(data)))
    expected = plain(data)
    found = shown(output)
    assert sorted(found) == [number for one in output.stretches for number in range(one.first, one.first + one.lines)]
    for number, text in found.items():
        # Before a gap a line may lack its end, and after one its beginning, in the middle of a character too.
        assert text.strip("\ufffd") in expected.get(number, "") or "\r" in data.decode("utf-8", "replace")
    assert sum(one.gap.bytes for one in output.stretches if one.gap) >= len(data) - sum(len(text) for _, text in kept)


@given(TEXTS, PLACES, st.integers(0, 60), st.sampled_from(["a", "bc", "cd", "ä", "€", "\x00", "A", "b\x1b"]))
def test_a_text_is_found_in_the_lines_that_have_it(data: bytes, places: list[int], edge: int, text: str) -> None:
    output = Numbered(output_of(data, places, edge, edge))
    expected = [at for at, line in enumerate(data.split(b"\n"), 1) if text.encode() in line]
    hits = output.search(text, 0)
    assert (hits.count, list(hits.lines)) == (len(expected), expected)


def test_capitals_count_where_the_wanted_text_has_some_and_colours_never() -> None:
    output = Numbered(output_of(b"Loss\nloss\n\x1b[1mlo\x1b[0mss\n", [7], 10**3, 10**3))
    assert output.search("loss", 0).lines == [1, 2, 3]
    assert output.search("Loss", 0).lines == [1]


def test_hits_are_named_around_a_line() -> None:
    output = Numbered(output_of(b"x\n" * 5000, [], 10**6, 10**6))
    hits = output.search("x", 3000)
    assert (hits.count, hits.before, hits.lines[0], len(hits.lines)) == (5000, 2499, 2500, 1000)
    assert output.search("x", 5000).lines[-1] == 5000


def test_a_long_line_is_cut_and_its_middle_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbered, "_LINE_BYTES", 10_000)
    kept, block = Kept(), b"y" * 3000
    segment = kept.segment(0, 0, [b"first\n" + block, *([block] * 500), b"end\nlast"])
    output = Output(stored_parts(manifest_of(segment)), stored=kept)
    reads: list[str] = []
    get = kept.objects.get

    def counted(name: str, start: int | None = None, end: int | None = None) -> bytes:
        reads.append(name)
        return get(name, start, end)

    monkeypatch.setattr(kept.objects, "get", counted)
    first, long, last = Numbered(output).lines(1, 10)
    assert (first.text, last.text) == ("first", "last")
    assert (long.text, long.more) == ("y" * 4000, 501 * 3000 + 3 - 4000)
    assert len(reads) < 12


def test_a_damaged_block_has_no_lines_and_the_others_keep_their_numbers() -> None:
    kept = Kept()
    first, broken, last = (kept.segment(at * 4, at * 2, [b"a\nb\n"]) for at in range(3))
    kept.objects.put(broken.name, [b"no frame"])
    output = Numbered(Output(stored_parts(manifest_of(first, broken, last)), stored=kept))
    assert output.count == 6
    # Nobody knows whether the damaged block had the beginning of line 5.
    assert shown(output) == {1: "a", 2: "b", 6: "b"}
    assert output.search("b", 0).lines == [2, 6]


def test_a_line_has_the_time_of_its_block_or_chunk() -> None:
    kept = Kept()
    parts = stored_parts(manifest_of(kept.segment(0, 0, [b"a\nb\n", b"c\n"], at_ms=1000)))
    output = Numbered(Output(with_live_parts(parts, [LogChunk("2000-0", 6, b"d\ne\n", 3)]), stored=kept))
    assert [(line.text, line.at_ms, line.is_later) for line in output.lines(1, 9)] == [
        ("a", 1000, False),
        ("b", 1000, True),
        ("c", 1001, False),
        ("d", 2000, False),
        ("e", 2000, False),
    ]
