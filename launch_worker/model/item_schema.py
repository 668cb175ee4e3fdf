"""Defines the format of an item, which a producer writes and a worker reads: a JSON Schema with a version.

A worker refuses items of a newer version and leaves them to newer workers; older ones it takes, with the defaults for
what they do not say. So workers are upgraded before producers.
"""

from __future__ import annotations

from typing import Any

#: Rises by one whenever RunSpec gets a field, or takes a value, that older workers do not understand.
VERSION = 1


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
