"""Measures and cuts texts in a terminal's cells, of which a wide character takes two."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from launch_worker.terminal.say import Styled
from launch_worker.terminal.screen import Screen
from launch_worker.untrusted.text import clean

_STYLE = re.compile(r"(\x1b\[[0-9;]*m)")
_NOTHING = Styled("")
#: Texts of which each character is one cell wide: Latin letters, and the signs that this package writes itself.
_SINGLE = re.compile("[\\x20-\\x7e\\xa1-\\xac\\xae-\\u02ff\\u2010-\\u2027\\u25a0-\\u25cf\\u2713\\u2717\\u21af\\ufffd]*")


def unstyled(text: str) -> str:
    """The text without colours."""
    return _STYLE.sub("", text) if isinstance(text, Styled) else text


def width_of(text: str) -> int:
    """The number of cells that a cleaned text takes."""
    text = unstyled(text)
    if text.isascii() or _SINGLE.fullmatch(text):
        return len(text)
    # Its tables take a while to load.
    from rich.cells import cell_len

    return cell_len(text)


def cut(text: str, cells: int, ellipsis: str = "…") -> str:
    """The text, or what fits of it and an ellipsis; colours stay."""
    if width_of(text) <= cells:
        return text
    if cells <= 0:
        return Styled("") if isinstance(text, Styled) else ""
    if not isinstance(text, Styled):
        return _beginning(text, cells - 1) + ellipsis
    left, parts = cells - 1, []
    for part in _STYLE.split(text):
        if _STYLE.fullmatch(part):
            parts.append(part)
        elif left >= 0:
            there = width_of(part)
            parts.append(part if there <= left else _beginning(part, left) + ellipsis)
            left -= there if there <= left else left + 1
    return Styled("".join(parts))


def wrapped(text: str, screen: Screen, head: Styled = _NOTHING, *, indent: int | None = None) -> list[Styled]:
    """The cleaned text behind a head, in lines that end between two words.

    Later lines begin below the text, or with `indent` blanks.
    """
    text = screen.writable(text if isinstance(text, Styled) else clean(text))
    before = width_of(head)
    if screen.width is None or before + width_of(text) <= screen.width:
        return [Styled(head + text)]
    indent = before if indent is None else indent
    rows, room = [""], max(1, screen.width - before)
    for word in _pieces(text.split(" "), max(1, screen.width - max(before, indent))):
        longer = f"{rows[-1]} {word}" if rows[-1] else word
        if rows[-1] and _styled_width(longer) > room:
            rows.append(word)
            room = max(1, screen.width - indent)
        else:
            rows[-1] = longer
    return [Styled((" " * indent if at else head) + row) for at, row in enumerate(rows)]


def _pieces(words: Iterable[str], room: int) -> Iterator[str]:
    """The words, those that are longer than a line in pieces."""
    for word in words:
        while _styled_width(word) > room and not _STYLE.search(word):
            piece = _beginning(word, room) or word[:1]
            yield piece
            word = word[len(piece) :]
        yield word


def _styled_width(text: str) -> int:
    return width_of(Styled(text))


def padded(text: str, cells: int, *, right: bool = False) -> str:
    """The text with blanks behind it, or before it."""
    blanks = " " * (cells - width_of(text))
    return blanks + text if right else text + blanks


def _beginning(text: str, cells: int) -> str:
    """The most of a text that takes no more cells."""
    kept = text[:cells]
    while (over := width_of(kept) - cells) > 0:
        kept = kept[: -(over + 1) // 2]
    return kept
