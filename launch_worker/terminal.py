"""Prints for all commands: texts of others made harmless, tables and colour on a terminal, JSON for machines.

`say` is the one way to standard output and standard error; a lint rule forbids `click.echo` and `print` elsewhere.
"""

from __future__ import annotations

import json
import re
import sys
from codecs import getincrementaldecoder
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from launch_worker.untrusted.text import clean

COLOURS = {
    "Pending": "yellow",
    "Running": "cyan",
    "Finished": "green",
    "Failed": "red",
    "Killed": "magenta",
    "Crashed": "bright_red",
}


class Styled(str):
    """Text that was cleaned and then given a colour: it may hold a terminal's escapes."""

    __slots__ = ()


def styled(text: Any, *, colour: str | None) -> Styled:
    """The cleaned text in this colour; a pipe gets it without."""
    return Styled(click.style(clean(text), fg=colour))


def say(*parts: Any, err: bool = False) -> None:
    """Print the parts as one line, each cleaned unless it is `Styled`; with `err` to standard error."""
    line = "".join(part if isinstance(part, Styled) else clean(part) for part in parts)
    click.echo(line, err=err)  # noqa: TID251 (here it is clean)


def echo_json(value: Any, *, indent: int | None = None) -> None:
    """One object, without `indent` one line. On a terminal it is ASCII: all else is an escape of JSON."""
    is_plain = sys.stdout.isatty() or not (sys.stdout.encoding or "").lower().startswith("utf-8")
    text = json.dumps(value, ensure_ascii=is_plain, indent=indent)
    # Half of a surrogate pair cannot be written, but as an escape of JSON.
    click.echo(re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text))  # noqa: TID251 (JSON)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows under a header."""
    header = [clean(column) for column in columns]
    texts = [[clean(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _rich_table(header, texts)
        return
    widths = [max(len(line[at]) for line in [header, *texts]) for at in range(len(header))]
    for line in [header, *texts]:
        say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _rich_table(columns: Sequence[str], rows: list[list[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(Text(column), overflow="fold", no_wrap=column in ("ID", "STATE"))
    for row in rows:
        shown.add_row(*(Text(cell, style=COLOURS.get(cell, "")) for cell in row))
    Console().print(shown)


def state(word: str) -> Styled:
    """A state's name, coloured on a terminal."""
    return styled(word, colour=COLOURS.get(word))


#: Sequences of a job that reach a terminal: colours, and a line's end as on Windows.
_ALLOWED = re.compile(r"\x1b\[[0-9;:]{0,60}m|\r\n|[^\n\t\x20-\x7e]")
#: Beginning of an escape that could be a colour, or of a line's end.
_UNFINISHED = re.compile(r"(\x1b(\[[0-9;:]{0,60})?|\r)$")
#: Characters that pass: blanks, and joiners within letters and emoji.
_HARMLESS = "\xa0\u200c\u200d\u202f\u3000"


class JobOutput:
    """A job's bytes on standard output: as they are in a pipe or with `raw`, harmless on a terminal.

    On a terminal colours pass, and every other control character is shown as what it is: `^G`, `\\x9b`, `\\u202e`. A
    carriage return is `^M` and a new line, so that no line is written over.
    """

    def __init__(self, *, raw: bool = False) -> None:
        self._is_shown = not raw and sys.stdout.isatty()
        self._decoder = getincrementaldecoder("utf-8")("backslashreplace")
        self._rest = ""
        self._has_colour = False

    def __enter__(self) -> JobOutput:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def write(self, data: bytes) -> None:
        if self._is_shown:
            text = self._rest + self._decoder.decode(data)
            unfinished = _UNFINISHED.search(text)
            self._rest = unfinished[0] if unfinished else ""
            data = self._shown(text[: len(text) - len(self._rest)])
        self._put(data)

    def end(self) -> None:
        """Print the rest, and end the colours."""
        if self._is_shown:
            left = self._shown(self._rest + self._decoder.decode(b"", True))
            self._rest = ""
            self._put(left + (b"\x1b[0m" if self._has_colour else b""))
            self._has_colour = False

    def _shown(self, text: str) -> bytes:
        return _ALLOWED.sub(self._one, text).encode("utf-8", "backslashreplace")

    def _one(self, match: re.Match[str]) -> str:
        found = match[0]
        if found == "\r\n":
            return "\n"
        if len(found) > 1:
            self._has_colour = True
            return found
        if found.isprintable() or found in _HARMLESS:
            return found
        if found == "\r":
            return "^M\n"
        if found < " " or found == "\x7f":
            return f"^{chr(ord(found) ^ 0x40)}"
        return found.encode("unicode_escape").decode()

    @staticmethod
    def _put(data: bytes) -> None:
        if data:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()


def ago(isotime: str | None, *, now: datetime | None = None) -> str:
    """The time since then, in one unit; '' for not known."""
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
    """The time that a run ran, or has run so far."""
    if run["started_at"] is None:
        return ""
    end = datetime.fromisoformat(run["ended_at"]) if run["ended_at"] else datetime.now(UTC)
    return span((end - datetime.fromisoformat(run["started_at"])).total_seconds())
