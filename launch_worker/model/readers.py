"""Readers of what people write as JSON, or pass as an argument: each takes a name, for the error, and a value.

A reader says of which type an option is: `launch-submit`'s options and the defaults of queues are derived from it too.
Each raises InputError that says what is wanted, and what it was given instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from launch_worker.errors import InputError
from launch_worker.ids import check_run_id
from launch_worker.model.needs import memory_range
from launch_worker.model.signals import parse_ahead, parse_signal
from launch_worker.model.unique import check_unique
from launch_worker.model.units import parse_duration, parse_size, parse_time

Reader = Callable[[str, Any], Any]


def text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(name, value, "a text")
    return value


def path(name: str, value: Any) -> str:
    folder = text(name, value)
    if not folder or "\x00" in folder:
        raise InputError(f"{name} must name a folder")
    return folder


def whole(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(name, value, "a whole number")
    return value


def number(name: str, value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise _wrong(name, value, "a number")
    try:
        return float(value)
    except OverflowError:
        raise InputError(f"{name} is too large a number") from None


def truth(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, value, "true or false")
    return value


def negation(name: str, value: Any) -> bool:
    """The opposite of what was written, for an option that takes something away."""
    return not truth(name, value)


def duration(name: str, value: Any) -> float:
    """The seconds of a duration."""
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        raise _wrong(name, value, "a duration: seconds, or a text such as 5m")
    try:
        return parse_duration(value, what=_spoken(name))
    except OverflowError:
        raise InputError(f"{_spoken(name)} is too large a number") from None


def sizes(name: str, value: Any) -> int | str:
    """The bytes of a size; a range of two sizes, `8G..64G`, as it is written."""
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise _wrong(name, value, "a size: bytes, or a text such as 512M or 8G..64G")
    if isinstance(value, str) and ".." in value:
        memory_range(value)
        return value
    return parse_size(value, what=_spoken(name))


def rules(name: str, value: Any) -> tuple[str, ...]:
    """Rules of what is tried again: a list, or a text with commas between them."""
    found = value.split(",") if isinstance(value, str) else _listed(name, value)
    return tuple(rule.strip() for rule in found if rule.strip())


def time(name: str, value: Any) -> int:
    """The microseconds since 1970 of a time."""
    if isinstance(value, (bool, list, tuple, Mapping)):
        raise _wrong(name, value, "a time")
    return parse_time(value, what=name)


def texts(name: str, value: Any) -> tuple[str, ...]:
    """A list of texts; one text is a list of one."""
    return (value,) if isinstance(value, str) else _listed(name, value)


def text_list(name: str, value: Any) -> list[str]:
    """The same as a list, as JSON has it."""
    return list(texts(name, value))


def words(name: str, value: Any) -> tuple[str, ...]:
    """Words in small letters: a list, or a text with commas between them."""
    found = value.split(",") if isinstance(value, str) else _listed(name, value)
    return tuple(word.strip().lower() for word in found if word.strip())


def command(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        raise InputError(
            f"the command must be a list of arguments, not one text; write {json.dumps(value.split())[:200]}"
        )
    return _listed(name, value)


def mapping(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(name, value, "a map of names to values")
    return dict(value)


def env(name: str, value: Any) -> dict[str, str]:
    found = mapping(name, value)
    for key, entry in found.items():
        if not isinstance(entry, str):
            raise InputError(f"the value of environment variable {str(key)[:60]} must be a text, not {kind(entry)}")
    return found


def secrets(name: str, value: Any) -> dict[str, str]:
    """Values of secrets by the names of their variables; no error repeats one."""
    if not isinstance(value, Mapping):
        raise _wrong(name, value, "a map of names of variables to their values")
    for key, entry in value.items():
        if not isinstance(entry, str):
            raise InputError(f"the value of secret {str(key)[:60]} must be a text, not {kind(entry)}")
    return dict(value)


def run_id(name: str, value: Any) -> str:
    return check_run_id(value)


def signal(name: str, value: Any) -> str:
    """The name of a signal, as `SIGUSR1`; 10 is one too."""
    return parse_signal(str(value) if type(value) is int else text(name, value), what=_spoken(name))


def signal_ahead(name: str, value: Any) -> str:
    """A signal and the time ahead of an end at which it comes, as `SIGUSR1@120`."""
    return str(parse_ahead(text(name, value)))


def unique(name: str, value: Any) -> str:
    return check_unique(value)


def kind(value: Any) -> str:
    """The type of a value in JSON's words."""
    if isinstance(value, bool):
        return "a truth value"
    kinds = {str: "a text", int: "a number", float: "a number", list: "a list", dict: "a map", type(None): "null"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def _listed(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        raise _wrong(name, value, "a list of texts")
    for entry in value:
        if not isinstance(entry, str):
            raise InputError(f"{_spoken(name)} must be a list of texts; one of them is {kind(entry)}")
    return tuple(value)


def _wrong(name: str, value: Any, wanted: str) -> InputError:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    shown = f"{value!r:.40}" if is_number else kind(value)
    return InputError(f"{_spoken(name)} must be {wanted}, not {shown}")


def _spoken(name: str) -> str:
    return name.replace("_", " ")
