"""Macros: `${name}` in what a run and its queue say, filled when the run is claimed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from launch_worker.errors import InputError

if TYPE_CHECKING:
    from launch_worker.model.run import Record
    from launch_worker.model.spec import RunSpec
    from launch_worker.queues.queue import QueueConfig

#: The system's own macros: no value and no variable of a worker can be reached under these names.
SYSTEM_MACROS = ("run_id", "project_name", "entity_name", "run_name", "author", "image_uri", "queue", "attempt")
#: More than any argument or variable may have.
MAX_FILLED = 256 * 1024
#: With a second dollar before it, it is the text itself.
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


def macros_of(
    record: Record, spec: RunSpec, *, config: QueueConfig, worker_env: Mapping[str, str], values: Mapping[str, Any]
) -> dict[str, Any]:
    """Every macro of a claimed run: its values, the worker's variables that its queue allows, and the system's own.

    One that has nothing to stand for (a project that was not named, a variable that the worker lacks) is None.
    """
    entity, slash, project = record.project.rpartition("/")
    own: dict[str, Any] = {
        "run_id": record.id,
        "project_name": project or None,
        "entity_name": entity if slash else None,
        "run_name": record.name,
        "author": spec.author or None,
        "queue": record.queue,
        "attempt": str(record.attempt),
    }
    macros = {**values, **{name: worker_env.get(name) for name in config.macro_env}, **own}
    image = spec.image or (config.container.get("image", "") if config.resource == "container" else "")
    return macros | {"image_uri": fill_text(image, macros) or None}


def spec_has_macros(spec: RunSpec) -> bool:
    """Whether `fill_spec` might change it."""
    texts = (*spec.command, *spec.env.values(), spec.cwd or "", spec.image, spec.uri)
    return any("${" in text and has_macros(text) for text in texts)


def fill_spec(spec: RunSpec, macros: Mapping[str, Any]) -> RunSpec:
    """The spec with its command, environment, folder, image and code filled in. Raises InputError.

    The result is checked as what a person submits is: what was filled in cannot make a git URL of another kind of it,
    or lead out of the code.
    """
    if not spec_has_macros(spec):
        return spec
    from launch_worker.model.container_options import IMAGE
    from launch_worker.model.git_url import parse_git_url

    image = fill_text(spec.image, macros)
    if image and not IMAGE.fullmatch(image):
        raise InputError(f"image {image[:60]!r}, with its macros filled, is not the name of an image")
    uri = fill_text(spec.uri, macros)
    if uri:
        parse_git_url(uri)
    return replace(
        spec,
        command=tuple(fill_text(argument, macros) for argument in spec.command),
        env={name: fill_text(text, macros) for name, text in spec.env.items()},
        cwd=None if spec.cwd is None else fill_text(spec.cwd, macros),
        image=image,
        uri=uri,
    )


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
