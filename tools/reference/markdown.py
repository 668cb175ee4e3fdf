"""Makes pieces of Markdown: tables, and texts of others that must not be taken for Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

#: First line of each page that is written by `make reference`.
GENERATED = "<!-- Written by `make reference`: change tools/reference, or what it reads. -->\n\n"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, each row in one line."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def cell(text: str) -> str:
    """A text in a cell of a table, in one line."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def code(text: str) -> str:
    """A text as it is, in a cell."""
    return f"`{text.replace('|', chr(92) + '|')}`" if text else ""
