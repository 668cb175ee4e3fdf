"""Makes the lines of facts under each other, and of commands to copy, for the width of the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from launch_worker.terminal.cells import cut, padded, width_of
from launch_worker.terminal.say import Styled, joined, styled
from launch_worker.terminal.screen import Screen
from launch_worker.untrusted.text import clean


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
