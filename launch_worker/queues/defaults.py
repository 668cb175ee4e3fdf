"""Merges what a queue and its pool give to a run with what the run says itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from launch_worker.errors import InputError
from launch_worker.model import options, readers
from launch_worker.model.notify import joined
from launch_worker.model.options import Option
from launch_worker.model.readers import Reader
from launch_worker.model.spec import RunSpec
from launch_worker.untrusted.text import read_json

#: Options that may have a default, by name, and by the field of a RunSpec that they are.
_BY_NAME = {option.name: option for option in options.OPTIONS if options.DEFAULT in option.places}
_BY_FIELD = {option.field: option for option in _BY_NAME.values()}
#: Fields of a retry policy: `retry` takes the place of the others.
_POLICY = frozenset({"retry", "retries", "retry_on"})
#: Options whose default is typed as JSON, and what JSON that is.
_AS_JSON: dict[Reader, str] = {
    readers.whole: "a number",
    readers.number: "a number",
    readers.truth: "true or false",
    readers.mapping: "JSON",
    readers.env: "JSON",
}


def check_defaults(given: Any) -> dict[str, Any]:
    """Defaults as fields of a RunSpec, from names of options (`{"timeout": "2h"}`) or of fields. Raises InputError."""
    if not isinstance(given, Mapping):
        raise InputError("the defaults must be a map of options to values")
    defaults = {}
    for name, value in given.items():
        option = _option(name)
        try:
            reader = _READERS.get(option.reader, option.reader)
            defaults[option.field] = reader(name, value)
            if option.check is not None:
                option.check(defaults[option.field])
        except InputError as error:
            raise InputError(f"default {name}: {error}") from None
    try:
        RunSpec(**merge({"command": ("true",)}, defaults))
    except InputError as error:
        raise InputError(f"the defaults make no run: {error}") from None
    return defaults


def _option(name: str) -> Option:
    """The option with this name, or of this field. Raises InputError for one that has no default."""
    option = _BY_NAME.get(name) or _BY_FIELD.get(name)
    if option is None:
        raise InputError(f"{str(name)[:60]!r} can have no default; there are: {', '.join(sorted(_BY_NAME))}")
    return option


def parse_defaults(pairs: Mapping[str, str]) -> dict[str, Any]:
    """Defaults as typed on a command line: JSON where the option is no text; empty takes one away."""
    parsed: dict[str, Any] = {}
    for name, text in pairs.items():
        parsed[name] = text or None
        option = _BY_NAME.get(name)
        if option is None or not text:
            continue
        what = _AS_JSON.get(option.reader)
        if what or (option.reader in (readers.texts, readers.words) and text.startswith("[")):
            try:
                parsed[name] = read_json(text)
            except ValueError:
                raise InputError(f"default {name}: {text[:60]!r} is not {what or 'JSON'}") from None
    return parsed


def as_options(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults under the names of options, as they are typed; durations are seconds."""
    shown = {}
    for field, value in defaults.items():
        option = _BY_FIELD[field]
        shown[option.name] = f"{value:g}" if option.reader is readers.duration else value
    return shown


def changed(before: Mapping[str, Any], given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The defaults with some changed, one by one; None takes one away."""
    if given is not None and not isinstance(given, Mapping):
        raise InputError("the defaults must be a map of options to values")
    after = dict(before)
    for name, value in (given or {}).items():
        after[_option(name).field] = value
    return {name: value for name, value in after.items() if value is not None}


def merge(given: Mapping[str, Any], *layers: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of a RunSpec: what the run says, then each layer's value where none before it has one.

    A folder that the submitter did not name (`cwd` without `cwd_required`) gives way to one of a layer, which is for
    runs that bring no code; a layer's `cwd_required` makes it one that the worker must have. A layer's `requirements`
    are for runs that bring code. None is nothing said.
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
        policy = merged.keys() & _POLICY
        for name, value in layer.items():
            if name == "cwd_required":
                continue
            if name == "cwd":
                if not has_code and "cwd" not in merged:
                    merged |= {"cwd": value, "cwd_required": True}
            elif name == "requirements" and not has_code:
                continue
            elif policy and name in _POLICY and (name == "retry") != ("retry" in policy):
                # What a run says of its retries is not mixed with another policy.
                continue
            elif name == "notify":
                # What an admin wants to be told is not up to the submitter.
                merged[name] = joined(merged.get(name, ()), value)
            elif _BY_FIELD[name].reader in (readers.mapping, readers.env):
                merged[name] = {**value, **merged.get(name, {})}
            else:
                merged.setdefault(name, value)
    if soft is not None and "cwd" not in merged:
        merged["cwd"] = soft
        if is_required and not (has_code or merged.get("image")):
            merged["cwd_required"] = True
    return merged


def _text(name: str, value: Any) -> str:
    if not readers.text(name, value):
        raise InputError("it must be a text that is not empty; leave the default out instead")
    return str(value)


def _folder(name: str, value: Any) -> str:
    folder = readers.path(name, value)
    if not folder.startswith("/"):
        raise InputError(f"{value!r} must be an absolute path; it is for runs that bring no code")
    return folder


def _texts(name: str, value: Any) -> tuple[str, ...]:
    """A list, or a text with commas between its entries: `--default tags=a,b`."""
    found = value.split(",") if isinstance(value, str) else readers.texts(name, value)
    return tuple(word.strip() for word in found if word.strip())


def _number(name: str, value: Any) -> Any:
    """The number as it was written: 2, not 2.0."""
    readers.number(name, value)
    return value


#: Readers of defaults in place of those of a run's own options.
_READERS: dict[Reader, Reader] = {
    readers.text: _text,
    readers.path: _folder,
    readers.texts: _texts,
    readers.number: _number,
}
