"""Writes a submission as the words of `launch-submit` that say the same."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from launch_worker.model import readers
from launch_worker.model.options import (
    CODE,
    COMMAND_LINE,
    CONTAINER,
    CONTAINERS,
    LABELS,
    LIMITS,
    MANY,
    NEEDS,
    ONCE,
    SECRETS,
    TIMES,
    TOLD,
    Option,
)
from launch_worker.model.spec import parse_spec
from launch_worker.submission.array import parse_values
from launch_worker.submission.options import Item, as_options
from launch_worker.untrusted.text import read_map

#: Options of the command line, in the order in which they are written.
TYPED = tuple(
    option
    for option in (*LABELS, *CODE, *SECRETS, *CONTAINERS, *NEEDS, *LIMITS, *TOLD, *TIMES, *MANY, *ONCE)
    if COMMAND_LINE in option.places
)
#: Fields of a spec that no option says as they are.
_SAID_ELSEWHERE = frozenset({"array", "array_index", "array_limit", "sweep", "sweep_index", "scheduler", "author"})
_DURATIONS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
_SIZES = (("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10))


def options_of_spec(text: str) -> dict[str, Any]:
    """The options that submit the run of this spec once more, as `read_options` takes them. Raises InputError.

    A folder that the worker need not have is left out, as is what only the queue may say of a container. Of secrets it
    has the names: whoever submits once more gives the values.
    """
    said = read_map(text)
    # Sealed values are of that run alone; where the spec is shown, they are masked.
    names = list(said.pop("secrets", ()))
    spec = parse_spec(json.dumps(said))
    given = {name: getattr(spec, name) for name in said if name not in _SAID_ELSEWHERE}
    if container := given.get("container"):
        given["container"] = {name: value for name, value in container.items() if name in _SETTINGS}
    options = as_options(Item(given=given))
    if names:
        options["secrets"] = names
    if spec.array_index is not None:
        options["array"] = str(spec.array_index)
    settings = options.pop("container", {})
    # A setting that takes something away is kept as what is left.
    options |= {
        _SETTINGS[name].name: not value if _SETTINGS[name].reader is readers.negation else value
        for name, value in settings.items()
    }
    return options


def command_parts(options: Mapping[str, Any], *, secrets: Collection[str] = ()) -> list[str]:
    """The parts of the command that says these options: its program, each option, the job's command.

    `secrets`: variables of the environment whose values are not written; the shell that runs the command gives them.
    """
    parts = ["launch-submit"]
    for option in TYPED:
        if option.name in options:
            parts += _parts(option, options[option.name], secrets)
    if command := options.get("command"):
        parts.append(f"-- {shlex.join(command)}")
    return parts


def command_line(options: Mapping[str, Any], *, secrets: Collection[str] = ()) -> str:
    """The same as one line."""
    return " ".join(command_parts(options, secrets=secrets))


def _parts(option: Option, value: Any, secrets: Collection[str]) -> Iterator[str]:
    word = option.spellings[0]
    if option.reader in (readers.truth, readers.negation):
        if value:
            yield word
    elif option.reader is readers.env:
        for name, text in value.items():
            # The name has letters, digits and _ only.
            yield f'{word} "{name}=${name}"' if name in secrets else f"{word} {shlex.quote(f'{name}={text}')}"
    elif option.reader is readers.secrets:
        for name in value:
            yield f"{word} {shlex.quote(name)}"
    elif option.reader is readers.mapping:
        for name, entry in value.items():
            yield f"{word} {shlex.quote(f'{name}={value_text(entry)}')}"
    elif option.is_repeated:
        for text in [value] if isinstance(value, str) else value:
            yield f"{word} {shlex.quote(text)}"
    else:
        yield f"{word} {shlex.quote(option_text(option, value))}"


def option_text(option: Option, value: Any) -> str:
    """The value of an option that is given once, as a person writes it."""
    if isinstance(value, str):
        return value
    if option.reader is readers.duration:
        return _exactly(float(value), _DURATIONS)
    if option.reader is readers.sizes:
        return _exactly(value, _SIZES)
    if option.reader is readers.time:
        return datetime.fromtimestamp(float(value), UTC).isoformat().replace("+00:00", "Z")
    if option.reader in (readers.words, readers.rules):
        return ",".join(value)
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def value_text(value: Any) -> str:
    """A value of `--config` or `--set` as a person writes it: text as it is, unless that would be read as JSON."""
    if isinstance(value, str) and parse_values([f"x={value}"])["x"] == value:
        return value
    return json.dumps(value, ensure_ascii=False)


def _exactly(number: float, units: tuple[tuple[str, int], ...]) -> str:
    """The number in its largest unit in which it is whole."""
    for unit, size in units:
        if number >= size and number % size == 0:
            return f"{int(number // size)}{unit}"
    return f"{number:.9f}".rstrip("0").rstrip(".") if isinstance(number, float) else str(number)


#: Settings of a container that have an option, by their names in it.
_SETTINGS = {option.field: option for option in CONTAINERS if option.owner == CONTAINER}
