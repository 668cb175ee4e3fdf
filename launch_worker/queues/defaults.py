"""What a queue or a pool gives its runs where they say nothing themselves, and both merged with what a run says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from launch_worker.errors import InputError
from launch_worker.model.spec import RunSpec
from launch_worker.model.units import parse_duration, parse_size
from launch_worker.untrusted.text import read_json

#: Options that are durations: name of the option, and of the field in seconds.
_DURATIONS = {
    name: f"{name}_s" for name in ("timeout", "start_timeout", "stall_timeout", "grace", "retry_delay", "expires")
}
_TEXTS = ("cwd", "image", "priority", "project", "concurrency_key")
_LISTS = ("tags", "retry_on", "env_from")
_MAPS = ("env", "values", "container")
_NUMBERS = ("retries", "cpus", "gpus", "max_preemptions", "preempt_exit_code", "limit_key")
_FLAGS = ("cwd_required",)
#: Merged key by key; every other one as a whole.
_MERGED = _MAPS
#: Every name of an option that may have a default.
OPTIONS = (*_DURATIONS, "memory", *_TEXTS, *_LISTS, *_MAPS, *_NUMBERS, *_FLAGS)
#: The same as fields of a RunSpec.
FIELDS = tuple(_DURATIONS.get(option, option) for option in OPTIONS)


def check_defaults(given: Any) -> dict[str, Any]:
    """Defaults as fields of a RunSpec, from names of options (`{"timeout": "2h"}`) or of fields. Raises InputError."""
    if not isinstance(given, Mapping):
        raise InputError("the defaults must be a map of options to values")
    defaults = {}
    for name, value in given.items():
        field = field_of(name)
        try:
            defaults[field] = _CHECKS[field](name, value)
        except InputError as error:
            raise InputError(f"default {name}: {error}") from None
    try:
        RunSpec(**merge({"command": ("true",)}, defaults))
    except InputError as error:
        raise InputError(f"the defaults make no run: {error}") from None
    return defaults


def field_of(name: str) -> str:
    """The RunSpec field of an option. Raises InputError for one that has no default."""
    field = _DURATIONS.get(name, name)
    if field not in FIELDS:
        raise InputError(f"{str(name)[:60]!r} can have no default; there are: {', '.join(sorted(OPTIONS))}")
    return field


def parse_defaults(pairs: Mapping[str, str]) -> dict[str, Any]:
    """Defaults as typed on a command line: JSON where the option is no text; empty takes one away."""
    parsed: dict[str, Any] = {}
    for name, text in pairs.items():
        parsed[name] = text or None
        if text and (name in _NUMBERS or name in _MAPS or name in _FLAGS or (name in _LISTS and text.startswith("["))):
            try:
                parsed[name] = read_json(text)
            except ValueError:
                what = "a number" if name in _NUMBERS else "true or false" if name in _FLAGS else "JSON"
                raise InputError(f"default {name}: {text[:60]!r} is not {what}") from None
    return parsed


def as_options(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults under the names of options, as they are typed; durations are seconds."""
    options = {field: option for option, field in _DURATIONS.items()}
    return {options.get(field, field): f"{value:g}" if field in options else value for field, value in defaults.items()}


def changed(before: Mapping[str, Any], given: Mapping[str, Any] | None) -> dict[str, Any]:
    """With these defaults instead, one by one; None takes one away."""
    if given is not None and not isinstance(given, Mapping):
        raise InputError("the defaults must be a map of options to values")
    after = dict(before)
    for name, value in (given or {}).items():
        after[field_of(name)] = value
    return {name: value for name, value in after.items() if value is not None}


def merge(given: Mapping[str, Any], *layers: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of a RunSpec: what the run says, then each layer's word where nobody before has said any.

    A folder that the submitter did not name (`cwd` without `cwd_required`) gives way to one of a layer, which is for
    runs that bring no code; a layer's `cwd_required` makes it one that the worker must have. None is nothing said.
    """
    merged = {name: value for name, value in given.items() if value is not None}
    if not merged.get("cwd_required"):
        soft = merged.pop("cwd", None)
        merged.pop("cwd_required", None)
    else:
        soft = None
    has_code = bool(merged.get("uri") or merged.get("upload"))
    is_required = next((layer["cwd_required"] for layer in layers if "cwd_required" in layer), False)
    for layer in layers:
        for name, value in layer.items():
            if name == "cwd_required":
                continue
            if name == "cwd":
                if not has_code and "cwd" not in merged:
                    merged |= {"cwd": value, "cwd_required": True}
            elif name in _MERGED:
                merged[name] = {**value, **merged.get(name, {})}
            else:
                merged.setdefault(name, value)
    if soft is not None and "cwd" not in merged:
        merged["cwd"] = soft
        if is_required and not (has_code or merged.get("image")):
            merged["cwd_required"] = True
    return merged


def _duration(name: str, value: Any) -> float:
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        raise InputError(f"{value!r} is not a duration; write it as 90, 90s, 5m, 2h or 3d")
    return parse_duration(value, what=name)


def _size(name: str, value: Any) -> int:
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise InputError(f"{value!r} is not a size; write it as 1048576, 512M or 2G")
    return parse_size(value, what=name)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise InputError(f"it must be a text, not {value!r}")
    if name == "cwd" and not value.startswith("/"):
        raise InputError(f"{value!r} must be an absolute path; it is for runs that bring no code")
    return value


def _words(name: str, value: Any) -> tuple[str, ...]:
    words = [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value
    if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) for word in words):
        raise InputError("it must be a list of words")
    return tuple(word.lower() for word in words) if name == "retry_on" else tuple(words)


def _map(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InputError("it must be a map of names to values")
    return dict(value)


def _number(name: str, value: Any) -> Any:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise InputError(f"it must be a number, not {value!r}")
    return value


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"it must be true or false, not {value!r}")
    return value


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(_DURATIONS.values(), _duration),
    "memory": _size,
    **dict.fromkeys(_TEXTS, _text),
    **dict.fromkeys(_LISTS, _words),
    **dict.fromkeys(_MAPS, _map),
    **dict.fromkeys(_NUMBERS, _number),
    **dict.fromkeys(_FLAGS, _flag),
}
assert set(_CHECKS) == set(FIELDS)
