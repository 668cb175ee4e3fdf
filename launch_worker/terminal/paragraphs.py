"""Prints sentences, and facts under each other, within the width of the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from launch_worker.terminal.cells import cut, padded, width_of
from launch_worker.terminal.say import Styled, joined, styled
from launch_worker.terminal.screen import Screen
from launch_worker.untrusted.text import clean


def paragraph(text: str, screen: Screen, *, indent: str = "") -> list[Styled]:
    """The text in lines that end between words; in a pipe it is one line. No word is cut."""
    lines, width = [""], (screen.width or 1 << 30) - width_of(indent)
    for word in clean(text).split(" "):
        if not lines[-1]:
            lines[-1] = word
        elif width_of(lines[-1]) + 1 + width_of(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return [joined(indent, screen.writable(line)) for line in lines]


def facts(rows: Iterable[tuple[str, str]], screen: Screen) -> list[Styled]:
    """A line for each fact that is not empty: its name, dim, and what it is, cut where it has no room."""
    there = [(name, clean(text)) for name, text in rows if text]
    widest = max((width_of(name) for name, _ in there), default=0)
    lines = []
    for name, text in there:
        shown = screen.writable(text)
        if screen.width is not None:
            shown = cut(shown, max(8, screen.width - widest - 2), screen.ellipsis)
        lines.append(joined(styled(padded(name, widest), dim=True), "  ", shown))
    return lines


def commands(found: Sequence[tuple[str, str]], screen: Screen) -> list[Styled]:
    """Commands that a person may want next, whole, so that they can be copied, each with what it does."""
    widest = max((width_of(command) for command, _ in found), default=0)
    lines = []
    for command, what in found:
        line = joined("  ", padded(command, widest), "  ", styled(what, dim=True)) if what else joined("  ", command)
        if screen.width is not None and width_of(line) > screen.width:
            line = joined("  ", command)
        lines.append(line)
    return lines
