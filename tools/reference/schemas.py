"""Writes docs/reference/item.md and notices.md from their JSON Schemas."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from launch_worker.model.item_schema import SINCE, VERSION, item_schema
from launch_worker.model.options import OPTIONS, SPEC
from tools.reference.markdown import GENERATED, cell, code, table

NOTICE = Path(__file__).parents[2] / "docs/notice-1.schema.json"

ITEM = f"""# Items

An item is what a run is to do, as a submitter wrote it and a worker reads it: JSON, in the field `spec` of the run's record in
Redis. This is version {VERSION}; the whole JSON Schema is [item-{VERSION}.schema.json](../item-{VERSION}.schema.json), and
`launch-worker schema` prints it. Durations are seconds, sizes bytes; what is left out has its default.

An item has the least version that it can have: *since* is the version by which a worker knows the field. A worker leaves
items of a newer version to newer workers, so **upgrade workers before submitters**.

"""

#: Meaning of fields that no option sets by itself.
WITHOUT_OPTION = {
    "author": "Who submitted it, as the submitter says: USER@HOST.",
    "upload": "The uploaded folder that is its code, by its hash.",
    "array": "Id of its array, or of the bulk submission that it is of.",
    "array_index": "Its index in the array.",
    "array_limit": "Runs of the array that may run at once.",
    "sweep": "Id of the sweep that made it.",
    "sweep_index": "Its number in the sweep.",
    "scheduler": "Whether it is the scheduler of a sweep, in W&B's sense.",
}

NOTICES = """# Notices

What a webhook gets, as JSON. The schema is [notice-1.schema.json](../notice-1.schema.json); how to have notices sent, and how to
check their signature, is in [notifications](notifications.md).

"""


def kind_of(schema: Mapping[str, Any]) -> str:
    """The type of a value in a few words."""
    if "$ref" in schema:
        return (
            str(schema["$ref"])
            .rpartition("/")[2]
            .replace("maybe_time", "time or null")
            .replace("maybe_text", "string or null")
        )
    if "anyOf" in schema:
        return " or ".join(kind_of(one) for one in schema["anyOf"])
    if "enum" in schema:
        return " ".join(code(str(one)) for one in schema["enum"])
    if "const" in schema:
        return code(str(schema["const"]))
    kind = schema.get("type", "any")
    if isinstance(kind, list):
        return " or ".join(kind)
    if kind == "array" and "items" in schema:
        return f"list of {kind_of(schema['items'])}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return f"map of {kind_of(schema['additionalProperties'])}"
    return str(kind)


def item_page() -> str:
    """The whole page of items."""
    meanings = WITHOUT_OPTION | {option.field: option.explanation for option in OPTIONS if option.owner == SPEC}
    schema = item_schema()
    rows = [
        (
            *(code(name), kind_of(value), code(json.dumps(value["default"])) if "default" in value else ""),
            *(str(SINCE.get(name, 1)), cell(meanings.get(name, value.get("description", "")))),
        )
        for name, value in schema["properties"].items()
    ]
    return f"{GENERATED}{ITEM}{table(('field', 'type', 'default', 'since', 'meaning'), rows)}"


def notice_page() -> str:
    """The whole page of notices."""
    schema = json.loads(NOTICE.read_text(encoding="utf-8"))
    parts = [GENERATED, NOTICES, table(TITLES, fields_of(schema)), "\nTypes: "]
    parts.append(", ".join(code(word) for word in schema["properties"]["type"]["examples"]))
    parts.append(".\n\n`data` always has `text` and `url`; what else depends on the type:\n\n")
    parts.append(table(TITLES, fields_of(schema["properties"]["data"])))
    for name, part in schema["$defs"].items():
        if "properties" in part:
            parts.append(f"\n## {name.capitalize()}\n\n{table(TITLES, fields_of(part))}")
    return "".join(parts)


TITLES = ("field", "type", "always there", "meaning")


def fields_of(schema: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """A row for each field of an object."""
    for name, value in schema["properties"].items():
        always = "yes" if name in schema.get("required", ()) else ""
        yield code(name), kind_of(value), always, cell(value.get("description", ""))
