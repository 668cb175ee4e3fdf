"""Defines the format of an item, which a producer writes and a worker reads: a JSON Schema with a version.

A worker leaves items of a newer version to newer workers, and takes older items with the defaults for what they lack.
So workers are upgraded before submitters.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from launch_worker.model.spec import RunSpec

#: Version of the format; one more for each field or value of RunSpec that older workers must not ignore.
VERSION = 3
#: Fields that came later, and the version by which a worker knows each. An item has the least version that it can have.
SINCE = {
    "notify": 2,
    "inputs": 3,
    "outputs": 3,
    "requirements": 3,
    "python": 3,
    "checkpoint_every_s": 3,
    "retry": 3,
    "not_on_same_worker": 3,
    "stop_signal": 3,
    "stop_scope": 3,
    "signal": 3,
    "on_timeout": 3,
    "max_fails": 3,
    "secrets": 3,
}


def version_of(spec: RunSpec) -> int:
    """The version of the item that this spec is."""
    values, plain = _readers()
    # Older workers read no range.
    oldest = 3 if isinstance(spec.memory, str) else 1
    found = values(spec)
    # At once for most runs: one by one takes as long as all else that is done for a run.
    if found == plain:
        return oldest
    asked = zip(SINCE.values(), found, plain, strict=True)
    return max(oldest, *(version for version, value, default in asked if value != default))


@cache
def _readers() -> tuple[Callable[[RunSpec], tuple[Any, ...]], tuple[Any, ...]]:
    """What reads the fields of `SINCE` of a spec, and their defaults."""
    from launch_worker.model.spec import RunSpec

    # Of a field with a plain default the class has that default; the others are maps.
    return attrgetter(*SINCE), tuple(getattr(RunSpec, name, {}) for name in SINCE)


def item_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of an item of this version: pydantic's, of `RunSpec`."""
    # Imported on demand: start-up time of `launch-submit`.
    from pydantic import TypeAdapter

    from launch_worker.model.spec import RunSpec

    schema = TypeAdapter(RunSpec).json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:launch-worker:item:{VERSION}",
        "version": VERSION,
        **schema,
        "title": "An item: what a run is to do. Durations are seconds, sizes bytes.",
        "description": "What is left out has its default. Kept as JSON in the field `spec` of a run's record.",
    }
