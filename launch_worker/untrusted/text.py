"""Reads others' JSON within bounds, and cleans others' text of what steers a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

#: Characters of the longest JSON text that is read, more than this system writes.
MAX_CHARS = 16 << 20
#: Levels of nesting; deeper values exhaust the stack of a copy, a comparison or an encoder.
MAX_DEPTH = 100


class TooDeepError(ValueError):
    """JSON that is nested too deeply."""


def read_json(
    text: str | bytes, *, max_chars: int = MAX_CHARS, parse_constant: Callable[[str], Any] | None = None
) -> Any:
    """Read a JSON text. Raises ValueError for a text that is no JSON or too long, TooDeepError for deep nesting."""
    if len(text) > max_chars:
        raise ValueError(f"it is longer than {max_chars:,} characters")
    if isinstance(text, bytes):
        text = text.decode()
    try:
        value = json.loads(text, parse_constant=parse_constant)  # noqa: TID251 (here it has bounds)
    except RecursionError:
        raise TooDeepError(f"it is nested more than {MAX_DEPTH} levels deep") from None
    # Almost every text has fewer brackets than there may be levels.
    if text.count("[") + text.count("{") > MAX_DEPTH and is_deeper(value, MAX_DEPTH):
        raise TooDeepError(f"it is nested more than {MAX_DEPTH} levels deep")
    return value


def read_map(text: str | bytes) -> dict[str, Any]:
    """Read a JSON object; an empty one for any other text."""
    try:
        value = read_json(text) if text else None
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def is_deeper(value: Any, levels: int) -> bool:
    """Whether maps and lists are nested more than `levels` deep."""
    nested = [value] if isinstance(value, (dict, list, tuple)) else []
    for _ in range(levels):
        nested = [
            inner
            for outer in nested
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list, tuple))
        ]
        if not nested:
            return False
    return True


def clean(value: Any) -> str:
    """Replace the characters by which a text could leave its row: escapes, line breaks, changes of direction."""
    text = "" if value is None else str(value)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
