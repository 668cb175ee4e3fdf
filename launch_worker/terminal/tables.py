"""Lays tables out: a row is one line, no word breaks, and the least important columns go first where there is no room.

Texts that people wrote may be cut, and end in `…` then; ids, states, numbers and times are whole, or their column goes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from launch_worker import humane
from launch_worker.terminal.cells import cut, padded, unstyled, width_of, wrapped
from launch_worker.terminal.say import Styled, joined, put, styled
from launch_worker.terminal.screen import Screen
from launch_worker.untrusted.text import clean

_GAP = "  "
#: Blanks before the second line of a row.
_INDENT = "  "
#: Cells of the narrowest column that is cut where only columns are left that stay.
_LEAST = 4


class Column(NamedTuple):
    """A column of a table."""

    title: str
    #: Place in the order of importance: the largest goes first, 0 stays.
    rank: int = 0
    #: Cells down to which its texts are cut before another column goes; None: they are never cut.
    least: int | None = None
    #: Whether it stands to the right. A column of numbers does anyway.
    right: bool = False
    #: Whether its texts get a second line of their own where it has no room.
    falls: bool = False


class Tailed(NamedTuple):
    """A text with an end that stays when the text is cut."""

    text: str
    tail: Styled


#: Content of a table's field: a text (cleaned unless it is `Styled`), a number, None for nothing, or what makes one.
Cell = Any


class Table(NamedTuple):
    """Rows under their columns. A title instead of a column is one that is never cut; the last of them goes first."""

    columns: Sequence[Column | str]
    rows: Sequence[Sequence[Cell]]

    def lines(self, screen: Screen) -> list[Styled]:
        """The lines for this screen: the header, and for each row one line, or two where a column has fallen."""
        return _Layout(self, screen).lines()

    def hidden(self, screen: Screen) -> list[str]:
        """The titles of the columns that have no room."""
        return [column.title for column in _Layout(self, screen).gone]


def print_table(columns: Sequence[Column | str], rows: Sequence[Sequence[Cell]], *, is_wide: bool = False) -> None:
    """Print a table to standard output."""
    put(Table(columns, rows).lines(Screen.of(is_wide=is_wide)))


def tell(text: str, *, err: bool = False) -> None:
    """Print a sentence, on a terminal in lines that end between two words."""
    put(wrapped(text, Screen.of(sys.stderr if err else sys.stdout), indent=2), err=err)


class _Field(NamedTuple):
    """A cell as cleaned text."""

    text: str
    tail: Styled = Styled("")

    @property
    def width(self) -> int:
        return width_of(self.text) + width_of(self.tail)

    def fitted(self, cells: int, screen: Screen) -> str:
        if self.width <= cells:
            return Styled(self.text + self.tail) if self.tail else self.text
        if not self.tail:
            return cut(self.text, cells, screen.ellipsis)
        tail = cut(self.tail, cells, screen.ellipsis)
        return Styled(cut(self.text, cells - width_of(tail), screen.ellipsis) + tail)


class _Layout:
    """Decides which columns a table has on a screen, and how wide each is."""

    def __init__(self, table: Table, screen: Screen) -> None:
        self._screen = screen
        last = len(table.columns) - 1
        columns = [
            column._replace(title=screen.writable(clean(column.title)))
            for column in (
                column if isinstance(column, Column) else Column(column, rank=at)
                for at, column in enumerate(table.columns)
            )
        ]
        assert all(len(row) == last + 1 for row in table.rows), (
            "a row has another number of cells than there are columns"
        )
        self._fields = [[self._field(cell) for cell in row] for row in table.rows]
        self._is_right = [
            at > 0 and (column.right or self._has_numbers(table.rows, at)) for at, column in enumerate(columns)
        ]
        self._needs = [
            max([width_of(column.title), *(row[at].width for row in self._fields)]) for at, column in enumerate(columns)
        ]
        self._shown = [(at, column) for at, column in enumerate(columns) if self._has_any(at)]
        #: Columns that have no room.
        self.gone: list[Column] = []
        self._fallen: list[int] = []
        self._widths = self._fit()

    def _field(self, cell: Cell) -> _Field:
        if callable(cell):
            cell = cell(self._screen)
        if isinstance(cell, Tailed):
            return _Field(self._text(cell.text), Styled(self._screen.writable(cell.tail)))
        text = self._text(cell)
        # A reader that splits at blanks counts columns.
        return _Field(text or ("" if self._screen.is_terminal else "-"))

    def _text(self, cell: Cell) -> str:
        if isinstance(cell, Styled):
            return Styled(self._screen.writable(cell))
        if isinstance(cell, (bool, dict, list)):
            cell = json.dumps(cell, ensure_ascii=False)
        elif isinstance(cell, (int, float)) and self._screen.is_terminal:
            cell = humane.figure(cell)
        return self._screen.writable(clean(cell))

    @staticmethod
    def _has_numbers(rows: Sequence[Sequence[Cell]], at: int) -> bool:
        there = [row[at] for row in rows if row[at] is not None and row[at] != ""]
        return bool(there) and all(isinstance(cell, (int, float)) for cell in there)

    def _has_any(self, at: int) -> bool:
        return not self._screen.is_terminal or not self._fields or any(row[at].width for row in self._fields)

    def _fit(self) -> dict[int, int]:
        """The cells of each shown column."""
        widths = {at: self._needs[at] for at, _ in self._shown}
        if self._screen.width is None:
            return widths
        room = self._screen.width
        least = {at: self._least(at, column) for at, column in self._shown}

        def is_too_wide() -> bool:
            return sum(least[at] for at, _ in self._shown) + len(_GAP) * (len(self._shown) - 1) > room

        while is_too_wide() and (most := max(column.rank for _, column in self._shown)):
            self._drop(max(at for at, column in self._shown if column.rank == most))
        if is_too_wide():
            for at, column in self._shown:
                if column.least is not None:
                    least[at] = min(least[at], _LEAST)
        while is_too_wide() and len(self._shown) > 1:
            self._drop(self._shown[-1][0])
        if is_too_wide():
            least = dict.fromkeys(least, room)
        widths = {at: widths[at] for at, _ in self._shown}
        over = sum(widths.values()) + len(_GAP) * (len(self._shown) - 1) - room
        # The widest give first.
        while over > 0:
            at = max((at for at in widths if widths[at] > least[at]), key=lambda at: (widths[at], at))
            below = max((width for width in widths.values() if width < widths[at]), default=0)
            give = min(over, widths[at] - max(below, least[at]))
            widths[at] -= give
            over -= give
        return widths

    def _least(self, at: int, column: Column) -> int:
        need = self._needs[at]
        if column.least is None:
            return need
        tails = [width_of(row[at].tail) + _LEAST for row in self._fields if row[at].tail]
        return min(need, max([column.least, width_of(column.title), *tails]))

    def _drop(self, which: int) -> None:
        at, column = next(one for one in self._shown if one[0] == which)
        self._shown.remove((at, column))
        if column.falls:
            self._fallen.append(at)
        else:
            self.gone.append(column)

    def lines(self) -> list[Styled]:
        titles = [cut(column.title, self._widths[at], self._screen.ellipsis) for at, column in self._shown]
        lines = [styled(self._line(titles), bold=True)]
        for row in self._fields:
            cells = [row[at].fitted(self._widths[at], self._screen) for at, _ in self._shown]
            lines.append(self._line(cells))
            for at in self._fallen:
                if row[at].width:
                    room = (self._screen.width or 0) - len(_INDENT)
                    text = row[at].fitted(room, self._screen)
                    lines.append(joined(_INDENT, styled(unstyled(text), dim=True)))
        return lines

    def _line(self, cells: Sequence[str]) -> Styled:
        parts = [
            padded(cell, self._widths[at], right=self._is_right[at])
            for cell, (at, _) in zip(cells, self._shown, strict=True)
        ]
        return Styled(_GAP.join(parts).rstrip())
