"""Writes docs/reference/api.md: every route of the server, from docs/openapi.json."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from tools.reference.markdown import GENERATED, cell, code, table

OPENAPI = Path(__file__).parents[2] / "docs/openapi.json"

TOP = """# HTTP API

Every route of `launch-worker server`, below its address. The description for programs, with all bodies and answers, is
[openapi.json](../openapi.json), which a server also gives at `/openapi.json`; at `/reference` it shows the same to people, with
fields to try. Logins, errors, pages of lists and idempotency: [the server](server.md).

"""


def page() -> str:
    """The whole page."""
    document = json.loads(OPENAPI.read_text(encoding="utf-8"))
    routes: dict[str, list[tuple[str, str, dict[str, Any]]]] = defaultdict(list)
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            routes[(route.get("tags") or ["system"])[0]].append((method.upper(), path, route))
    parts = [GENERATED, TOP]
    for tag in sorted(routes):
        rows = [(f"`{method} {path}`", _parameters(route), _meaning(route)) for method, path, route in routes[tag]]
        parts.append(f"## {tag.capitalize()}\n\n{table(('route', 'parameters', 'meaning'), rows)}\n")
    return "".join(parts).rstrip("\n") + "\n"


def _parameters(route: dict[str, Any]) -> str:
    """Names of its parameters but those of the path, and `body` for one that has a body."""
    names = [code(one["name"]) for one in route.get("parameters", ()) if one["in"] != "path"]
    return " ".join([*names, *(["*body*"] if "requestBody" in route else [])])


def _meaning(route: dict[str, Any]) -> str:
    return cell((route.get("description") or route["summary"]).split("\n\n")[0])
