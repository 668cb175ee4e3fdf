"""Serves the description of the API for programs and for people."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from launch_worker.server.asker import for_everybody
from launch_worker.server.openapi import as_text
from launch_worker.server.templating import page

router = APIRouter(dependencies=[for_everybody], include_in_schema=False)


@router.get("/openapi.json")
def openapi_document(request: Request) -> Response:
    """The API for programs."""
    return Response(as_text(request.app.openapi()).encode(), media_type="application/json")


@router.get("/api")
def reference(request: Request) -> Response:
    """The API for people."""
    document = request.app.openapi()
    text = page("reference", document=document, groups=_groups(document))
    return Response(text.encode(), media_type="text/html")


def _groups(document: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The operations by their first tag, in their order."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            shown = operation | {"method": method.upper(), "path": path}
            groups.setdefault(operation.get("tags", ["other"])[0], []).append(shown)
    return groups
