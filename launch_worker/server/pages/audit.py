"""Shows who did what, to admins."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from launch_worker.errors import InputError
from launch_worker.model.units import isoformat, since_ms
from launch_worker.people.roles import Act
from launch_worker.server.asker import Asker, allowed
from launch_worker.server.pages.shown import show
from launch_worker.server.shared import SharedHere

router = APIRouter(include_in_schema=False)
#: Lines on the page, and the most that can be asked for.
_USUAL, _MOST = 100, 1000


@router.get("/audit")
def audit_page(
    request: Request,
    shared: SharedHere,
    asker: Annotated[Asker, allowed(Act.SEE_AUDIT)],
    who: str = "",
    what: str = "",
    target: str = "",
    since: str = "",
    limit: Annotated[int, Query(ge=1, le=_MOST)] = _USUAL,
) -> Response:
    """The newest lines that fit, the newest first."""
    problem, acts = "", list[dict[str, Any]]()
    try:
        since_us = since_ms(since, time.time_ns() // 1_000_000) * 1000 if since else None
        acts = shared.connection.acts(who=who, what=what, target=target, since_us=since_us, limit=limit)
    except InputError as error:
        problem = str(error)
    for act in acts:
        act["detail"] = {name: _said(name, value) for name, value in act["detail"].items()}
    asked = {"who": who, "what": what, "target": target, "since": since}
    return show(request, shared, asker, "audit", acts=acts, asked=asked, limit=limit, most=_MOST, problem=problem)


def _said(name: str, value: Any) -> str:
    """A fact of a line, for people."""
    if name.endswith("_at") and isinstance(value, int):
        return isoformat(value) or ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {one}" for key, one in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
