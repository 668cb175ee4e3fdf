"""Finds and fills macros, `${name}`, in what a run and its queue say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from launch_worker.errors import InputError

#: Names of the system's own macros, which no value and no variable of a worker may have.
SYSTEM_MACROS = ("run_id", "project_name", "entity_name", "run_name", "author", "image_uri", "queue", "attempt")
#: Characters of a filled text: more than any argument or variable may have.
MAX_FILLED = 256 * 1024
#: A macro; with a second dollar before it, the text `${name}` itself.
_MACRO = re.compile(r"\$?\$\{([A-Za-z_][A-Za-z0-9_.]{0,99})\}")


def fill(value: Any, macros: Mapping[str, Any]) -> Any:
    """A copy with each `${name}` of its texts filled, in lists and maps too (values, not keys).

    Unknown names stay as they are, and `$${name}` is the text `${name}`. A text that is one macro and nothing else
    becomes the macro's value, of whatever type; what is filled in is not looked at again. Raises InputError for None,
    as a value and as a macro's.
    """
    if value is None:
        raise InputError("a template has nothing where a value should be (null); write a value, or leave it out")
    if isinstance(value, str):
        whole = _MACRO.fullmatch(value)
        if whole is not None and not value.startswith("$$"):
            return _value(whole[1], macros) if whole[1] in macros else value
        return _filled(value, macros)
    if isinstance(value, Mapping):
        return {key: fill(entry, macros) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([fill(entry, macros) for entry in value])
    return value


def _filled(text: str, macros: Mapping[str, Any]) -> str:
    size, parts, end = len(text), [], 0
    for found in _MACRO.finditer(text):
        parts += [text[end : found.start()], _replacement(found, macros)]
        end = found.end()
        # A text full of macros with long values could fill a worker's memory before anyone looked at its size.
        size += len(parts[-1])
        if size > MAX_FILLED:
            raise InputError(f"a text has more than {MAX_FILLED:,} characters when its macros are filled")
    return "".join([*parts, text[end:]])


def fill_text(text: str, macros: Mapping[str, Any]) -> str:
    """The same where only a text will do: `8`, `true`, and a map or list as JSON."""
    return as_text(fill(text, macros))


def as_text(value: Any) -> str:
    """A value as a person would write it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def has_macros(value: Any) -> bool:
    """Whether `fill` might change it."""
    if isinstance(value, str):
        return "${" in value and _MACRO.search(value) is not None
    if isinstance(value, Mapping):
        return any(map(has_macros, value.values()))
    return isinstance(value, (list, tuple)) and any(map(has_macros, value))


def check_value_names(names: Iterable[str], *, macro_env: Iterable[str] = ()) -> None:
    """Raises InputError for values that would stand where a macro of the system's or of the queue's stands."""
    for name in names:
        if name in SYSTEM_MACROS:
            raise InputError(f"value {name!r} would stand for the system's own macro ${{{name}}}; choose another name")
        if name in macro_env:
            raise InputError(f"value {name!r} would stand for a variable of the worker's; choose another name")


def _replacement(found: re.Match[str], macros: Mapping[str, Any]) -> str:
    if found[0].startswith("$$"):
        return found[0][1:]
    return as_text(_value(found[1], macros)) if found[1] in macros else found[0]


def _value(name: str, macros: Mapping[str, Any]) -> Any:
    value = macros[name]
    if value is None:
        raise InputError(f"macro ${{{name}}} has nothing to stand for here; write $${{{name}}} for the text itself")
    return value
