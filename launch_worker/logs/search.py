"""Finds the lines that a pattern is in: whole texts are searched first, so that few lines are looked at one by one."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

from launch_worker.errors import InputError
from launch_worker.model.log_pieces import Piece, lines_of
from launch_worker.untrusted.patterns import PatternError, searcher, weight_of

#: Bytes of text that is searched as a whole, before its lines are.
_SEARCHED = 8 << 10
#: Bytes of a line up to which it is searched as a whole.
_LONGEST_LINE = 1 << 20
#: Weight of a pattern up to which long texts are searched at once: a second for each million characters.
_LIGHT = 100
#: Parts of a pattern that mean another thing in a text of several lines than in each line.
_WHOLE_TEXT = re.compile(r"\\[AzZ]|\(\?[a-zA-Z]*[-ms]")


class Search:
    """Finds the lines that a pattern is in. Raises InputError for a pattern that cannot be searched for."""

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
