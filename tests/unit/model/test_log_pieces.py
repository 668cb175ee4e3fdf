"""Kept pieces of an output begin at a line, and what is missing is counted."""

from __future__ import annotations

import pytest

from launch_worker.model.log_pieces import Joiner, Log


def join(*pieces: tuple[int, bytes]) -> tuple[bytes, int]:
    joiner = Joiner()
    shown = [joiner.add(offset, data) for offset, data in pieces]
    return b"".join(data for data, _ in shown), sum(missing for _, missing in shown)


def test_an_output_that_is_whole_is_shown_as_it_is() -> None:
    assert join((0, b"on"), (2, b"e\ntwo")) == (b"one\ntwo", 0)
    assert join() == (b"", 0)


def test_what_begins_within_a_line_is_shown_from_the_next_one_on() -> None:
    assert join((100, b"rn\nwhole\n"), (109, b"next")) == (b"whole\nnext", 103)


def test_after_a_gap_the_torn_line_is_closed_and_the_next_one_follows() -> None:
    assert join((0, b"one\ntw"), (50, b"rn\nwhole\n")) == (b"one\ntw\nwhole\n", 46)
    assert join((0, b"one\n"), (50, b"rn\nwhole\n")) == (b"one\nwhole\n", 49)


@pytest.mark.parametrize("cut", range(1, 4))
def test_without_a_line_it_begins_at_a_character(cut: int) -> None:
    data = "\N{MUSICAL SYMBOL G CLEF}abc".encode()[cut:]
    assert join((10, data)) == (b"abc", 10 + 4 - cut)


def test_what_is_no_text_is_kept() -> None:
    assert join((10, b"\x80" * 100)) == (b"\x80" * 100, 10)


def test_what_is_missing_and_what_is_shown_is_all() -> None:
    output = b"".join(b"line %d\n" % number for number in range(1000))
    shown, missing = join((1000, output[1000:2000]), (2000, output[2000:3000]), (5005, output[5005:]))
    assert len(shown) + missing == len(output)
    whole = set(output.split(b"\n"))
    torn = [line for line in shown.split(b"\n") if line not in whole]
    assert len(torn) <= 1, "the end of what was before the gap"


def test_its_text_is_there_whatever_the_bytes() -> None:
    assert Log(b"a\xff\n").text == "a\N{REPLACEMENT CHARACTER}\n"


def test_a_piece_of_one_line_after_missing_output_is_shown() -> None:
    """What a job printed before is lost with Redis' newest writes; what it prints then is all that there is."""
    joiner = Joiner()
    assert joiner.add(6, b"ended\n") == (b"ended\n", 6)


def test_what_was_shown_before_is_not_shown_again() -> None:
    joiner = Joiner()
    assert joiner.add(0, b"one\ntwo\n") == (b"one\ntwo\n", 0)
    assert joiner.add(4, b"two\n") == (b"", 0)
    assert joiner.add(4, b"two\nthree\n") == (b"three\n", 0)
    assert joiner.end == 14
