"""Serves the entrance, with the key of loopback, and the description of the API for programs and for people."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from launch_worker.server.asker import for_everybody, is_loopback_key, set_cookie
from launch_worker.server.caching import tagged_bytes
from launch_worker.server.celery_page import PREFIX
from launch_worker.server.openapi import as_text
from launch_worker.server.pages import page
from launch_worker.server.shared import SharedHere

router = APIRouter(dependencies=[for_everybody], include_in_schema=False)
#: Seconds for which a browser keeps the key of loopback.
_KEY_S = 365 * 86400


@router.get("/")
def entrance(request: Request, shared: SharedHere, token: str = "") -> Response:
    """Let in who has the printed address, and take the key out of the address line."""
    inside = f"/{PREFIX}/" if shared.celery_page is not None else "/api"
    answer = RedirectResponse(inside, 303, headers={"Cache-Control": "no-store"})
    if is_loopback_key(shared, token):
        set_cookie(request, answer, token, max_age_s=_KEY_S)
    return answer


@router.get("/openapi.json")
def openapi_document(request: Request) -> Response:
    """The API for programs."""
    return tagged_bytes(request, as_text(request.app.openapi()).encode(), media_type="application/json")


@router.get("/api")
def reference(request: Request) -> Response:
    """The API for people."""
    document = request.app.openapi()
    text = page("reference", document=document, groups=_groups(document))
    return tagged_bytes(request, text.encode(), media_type="text/html")


def _groups(document: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The operations by their first tag, in their order."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            shown = operation | {"method": method.upper(), "path": path}
            groups.setdefault(operation.get("tags", ["other"])[0], []).append(shown)
    return groups
