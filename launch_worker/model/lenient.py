"""Reads values that others may have written or damaged: what is of another type has its default, and raises nothing."""

from __future__ import annotations

from typing import Any

from launch_worker.model.states import RunState
from launch_worker.untrusted.text import read_json

_STATES = {state.value: state for state in RunState}


def json_of(text: str) -> Any:
    """None for what is no JSON."""
    try:
        return read_json(text) if text else None
    except ValueError:
        return None


def map_of(value: Any) -> dict[str, Any]:
    """An object of JSON; empty for another value."""
    return value if isinstance(value, dict) else {}


def list_of(value: Any) -> list[Any]:
    """A list of JSON; empty for another value."""
    return value if isinstance(value, list) else []


def whole_number(value: Any) -> int | None:
    """A number of JSON without a fraction; None for another value."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def int_of(value: Any, default: int = 0) -> int:
    """The same, with a default."""
    number = whole_number(value)
    return default if number is None else number


def number_of(text: str) -> int | None:
    """The whole number that a text, which is not empty, is; None for another text."""
    digits = text[1:] if text[0] == "-" else text
    return int(text) if digits.isdecimal() and len(digits) <= 18 else None


def strings_of(text: str) -> tuple[str, ...]:
    """The texts in a list, of its JSON; none for another text."""
    values = None if text == "[]" else json_of(text)
    return tuple(map(str, values)) if isinstance(values, list) else ()


def state_of(text: str) -> RunState:
    """The state of this name; Failed for another text."""
    return _STATES.get(text, RunState.FAILED)
