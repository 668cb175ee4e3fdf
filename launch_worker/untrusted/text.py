"""Reads others' JSON within bounds, and cleans others' text of what steers a terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

#: Characters of the longest JSON text that is read, more than this system writes.
MAX_CHARS = 16 << 20
#: Levels of nesting; deeper values exhaust the stack of a copy, a comparison or an encoder.
MAX_DEPTH = 100

#: Digits of a whole number that is a double for certain.
_MAX_DIGITS = 308
#: Halves of a surrogate pair: JSON may have one alone, and no encoder of UTF-8 takes it.
_HALVES = re.compile("[\ud800-\udfff]")
#: Escape sequences, whole ones: CSI; OSC and other strings; short ones. static/js/log-text.js has the same.
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-OQ-WYZ\\`-~]")
#: Control characters but the tab, and what changes the direction of text or ends a line elsewhere.
_CONTROLS = re.compile("[\\x00-\\x08\\x0a-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ufeff]")


class TooDeepError(ValueError):
    """JSON that is nested too deeply."""


def read_json(
    text: str | bytes,
    *,
    max_chars: int = MAX_CHARS,
    parse_constant: Callable[[str], Any] | None = None,
    is_exact: bool = False,
) -> Any:
    """Read a JSON text. Raises ValueError for a text that is no JSON or too long, TooDeepError for deep nesting.

    A half of a surrogate pair in a text of it becomes U+FFFD, for nothing can send or store it, and a whole number that
    is larger than any double becomes its text; with `is_exact` they stay.
    """
    if len(text) > max_chars:
        raise ValueError(f"it is longer than {max_chars:,} characters")
    if isinstance(text, bytes):
        text = text.decode()
    try:
        if is_exact or parse_constant is not None:
            read = None if is_exact else _whole_number
            value = json.loads(text, parse_constant=parse_constant, parse_int=read)  # noqa: TID251 (here it has bounds)
        else:
            value = _DECODER.decode(text)
    except RecursionError:
        raise TooDeepError(f"it is nested more than {MAX_DEPTH} levels deep") from None
    # Almost every text has fewer brackets than there may be levels.
    if text.count("[") + text.count("{") > MAX_DEPTH and is_deeper(value, MAX_DEPTH):
        raise TooDeepError(f"it is nested more than {MAX_DEPTH} levels deep")
    if not is_exact and ("\\ud" in text or "\\uD" in text or (not text.isascii() and _HALVES.search(text))):
        return _whole(value)
    return value


def _whole_number(digits: str) -> int | str:
    return int(digits) if len(digits) <= _MAX_DIGITS else digits


_DECODER = json.JSONDecoder(parse_int=_whole_number)


def _whole(value: Any) -> Any:
    """The value without halves of surrogate pairs in its texts."""
    if isinstance(value, str):
        return _HALVES.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, dict):
        return {_whole(name): _whole(inner) for name, inner in value.items()}
    return [_whole(inner) for inner in value] if isinstance(value, list) else value


def read_map(text: str | bytes) -> dict[str, Any]:
    """Read a JSON object; an empty one for any other text."""
    try:
        value = read_json(text) if text else None
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def read_whole(text: str | bytes | None) -> int | None:
    """Read a whole number of at most 18 digits; None for any other text, and for none."""
    said = text.decode("utf-8", "replace") if isinstance(text, bytes) else text or ""
    digits = said.removeprefix("-")
    return int(said) if len(digits) <= 18 and digits.isascii() and digits.isdecimal() else None


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


def plain_line(line: str) -> str:
    """A line of output as text: escape sequences are left out, other control characters are shown."""
    return _CONTROLS.sub(_shown, _ESCAPES.sub("", line))


def _shown(control: re.Match[str]) -> str:
    code = ord(control[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"⟨U+{code:04X}⟩"
