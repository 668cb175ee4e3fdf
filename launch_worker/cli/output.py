"""Tables and colour for people on a terminal, plain aligned text in a pipe, JSON for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click

COLOURS = {
    "Pending": "yellow",
    "Running": "cyan",
    "Finished": "green",
    "Failed": "red",
    "Killed": "magenta",
    "Crashed": "bright_red",
}


def echo_json(value: Any) -> None:
    """One object, one line."""
    click.echo(json.dumps(value, ensure_ascii=False))


def clean(value: Any) -> str:
    """Text that cannot leave its row: no escapes of a terminal, no line breaks."""
    text = "" if value is None else str(value)
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows under a header."""
    texts = [[clean(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _rich_table(columns, texts)
        return
    widths = [max(len(line[at]) for line in [list(columns), *texts]) for at in range(len(columns))]
    for line in [list(columns), *texts]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _rich_table(columns: Sequence[str], rows: list[list[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column, overflow="fold", no_wrap=column in ("ID", "STATE"))
    for row in rows:
        shown.add_row(*(Text(cell, style=COLOURS.get(cell, "")) for cell in row))
    Console().print(shown)


def state(word: str) -> str:
    """A state's name, coloured on a terminal."""
    return click.style(word, fg=COLOURS.get(word))


def ago(isotime: str | None, *, now: datetime | None = None) -> str:
    """How long ago, in one unit; '' for not known."""
    if isotime is None:
        return ""
    seconds = ((now or datetime.now(UTC)) - datetime.fromisoformat(isotime)).total_seconds()
    return span(seconds)


def span(seconds: float) -> str:
    """A duration in one unit: `42s`, `7m`, `3.2h`, `2.1d`."""
    if seconds < 100:
        return f"{max(0.0, seconds):.0f}s"
    if seconds < 6000:
        return f"{seconds / 60:.0f}m"
    return f"{seconds / 3600:.1f}h" if seconds < 2 * 86400 else f"{seconds / 86400:.1f}d"


def run_time(run: dict[str, Any]) -> str:
    """How long a run ran, or runs."""
    if run["started_at"] is None:
        return ""
    end = datetime.fromisoformat(run["ended_at"]) if run["ended_at"] else datetime.now(UTC)
    return span((end - datetime.fromisoformat(run["started_at"])).total_seconds())
