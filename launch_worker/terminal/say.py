"""Prints lines: texts of others are made harmless, colours go to terminals that want them, JSON goes to machines.

`say` and `put` are the one way to standard output and standard error; a lint rule forbids `click.echo` and `print`
elsewhere.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable
from typing import IO, Any

import click

from launch_worker.untrusted.text import clean


class Styled(str):
    """Text that was cleaned and then given a colour: it may hold a terminal's escapes."""

    __slots__ = ()


def styled(text: Any, *, colour: str | None = None, dim: bool = False, bold: bool = False) -> Styled:
    """The cleaned text in this style. `say` leaves the style out where nobody wants it."""
    return Styled(click.style(clean(text), fg=colour, dim=dim or None, bold=bold or None))


def has_colours(stream: IO[str]) -> bool:
    """Whether this stream gets colours, by NO_COLOR, CLICOLOR_FORCE, CLICOLOR, TERM, and whether it is a terminal."""
    env = os.environ
    if env.get("NO_COLOR"):
        return False
    if env.get("CLICOLOR_FORCE", "0") not in ("", "0"):
        return True
    return stream.isatty() and env.get("CLICOLOR") != "0" and env.get("TERM") != "dumb"


def say(*parts: Any, err: bool = False) -> None:
    """Print the parts as one line, each cleaned unless it is `Styled`; with `err` to standard error."""
    put([joined(*parts)], err=err)


def joined(*parts: Any) -> Styled:
    """The parts as one line, each cleaned unless it is `Styled`."""
    return Styled("".join(part if isinstance(part, Styled) else clean(part) for part in parts))


def put(lines: Iterable[Styled], *, err: bool = False) -> None:
    """Print these lines at once."""
    text = "\n".join(lines)
    click.echo(text, err=err, color=has_colours(sys.stderr if err else sys.stdout))  # noqa: TID251 (here it is clean)


def echo_json(value: Any, *, indent: int | None = None) -> None:
    """One object, without `indent` one line. On a terminal it is ASCII: all else is an escape of JSON."""
    is_plain = sys.stdout.isatty() or not (sys.stdout.encoding or "").lower().startswith("utf-8")
    text = json.dumps(value, ensure_ascii=is_plain, indent=indent)
    # Half of a surrogate pair cannot be written, but as an escape of JSON.
    click.echo(re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text))  # noqa: TID251 (JSON)
