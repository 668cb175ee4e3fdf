"""Reads the syntax of arrays and values: `--array` and `--set`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from launch_worker.errors import InputError
from launch_worker.model.checks import MAX_LIMIT
from launch_worker.untrusted.text import TooDeepError, read_json

MAX_ARRAY = 100_000
_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9})(?::(\d{1,9}))?)?")


class Array(NamedTuple):
    """An array of runs, as `--array` asks for it."""

    indexes: tuple[int, ...]
    #: Most of its runs at once; None for no limit.
    limit: int | None


def parse_array(text: str) -> Array:
    """Slurm's lists: `0-99`, `1,3,5-7`, `0-10:2`, each with `%8` for at most 8 at once. Raises InputError."""
    refused = (
        f"array {str(text)[:60]!r} is not a list of indexes; write it as 0-99, 1,3,5-7 or 0-10:2, with %8 for 8 at once"
    )
    if not isinstance(text, str) or not text.isascii():
        raise InputError(refused)
    listed, percent, limit = text.strip().partition("%")
    if percent and not re.fullmatch(r"\d{1,7}", limit):
        raise InputError(refused)
    if percent and not 1 <= int(limit) <= MAX_LIMIT:
        raise InputError(f"the limit of array {text!r} must be from 1 to {MAX_LIMIT}")
    indexes: set[int] = set()
    for part in listed.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise InputError(refused)
        first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
        if last < first or step < 1:
            raise InputError(
                f"array {part.strip()!r} has no indexes; write the smaller one first, and a step of 1 or more"
            )
        if last > MAX_LIMIT:
            raise InputError(f"the indexes of an array end at {MAX_LIMIT}, not {last}")
        span = range(first, last + 1, step)
        if len(span) + len(indexes) > 2 * MAX_ARRAY:
            raise InputError(f"an array has at most {MAX_ARRAY:,} runs")
        indexes.update(span)
    if len(indexes) > MAX_ARRAY:
        raise InputError(f"an array has at most {MAX_ARRAY:,} runs, not {len(indexes):,}")
    return Array(tuple(sorted(indexes)), int(limit) if percent else None)


def parse_env(pairs: Iterable[str]) -> dict[str, str]:
    """`K=V` words as a map; a later one wins."""
    env = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"environment {name!r} has no value; write -e {name or 'NAME'}=VALUE or --env-from NAME")
        env[name] = value
    return env


def parse_values(pairs: Iterable[str], *, option: str = "--set") -> dict[str, Any]:
    """`K=V` words of `--set` or `--config` as a map, V as JSON where it is JSON, else as text; a later one wins."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"value {name[:60]!r} has no value; write {option} {name[:60] or 'NAME'}=VALUE")
        values[name] = _json_or_text(text)
    return values


def _json_or_text(text: str) -> Any:
    try:
        return read_json(text, is_exact=True, parse_constant=_no_constant)
    except TooDeepError:
        raise InputError(f"value {text[:20]!r}… is nested too deeply") from None
    except ValueError:
        return text


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")
