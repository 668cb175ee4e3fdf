"""Shows what is wrong: to who sees the whole installation all that `launch-worker doctor` looks at."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from starlette.responses import Response

from launch_worker.people.roles import Act, may
from launch_worker.server.asker import Asker, allowed
from launch_worker.server.pages.shown import show, status_of
from launch_worker.server.shared import SharedHere

router = APIRouter(include_in_schema=False)


@router.get("/problems")
def problems_page(request: Request, shared: SharedHere, asker: Annotated[Asker, allowed(Act.SEE_SYSTEM)]) -> Response:
    """What is wrong, each with what mends it, and what was looked at and is well."""
    found = status_of(shared, asker)["problems"]
    checked = []
    if may(asker.person, Act.SEE_PROBLEMS):
        checked = shared.kept.get(
            ("findings",), lambda: [finding.as_json() for finding in shared.connection.findings()], most_s=5.0
        )
    seen = {finding["text"] for finding in found}
    found = [*found, *(one for one in checked if one["level"] != "ok" and one["text"] not in seen)]
    found.sort(key=lambda finding: finding["level"] != "error")
    return show(request, shared, asker, "problems", found=found, well=[one for one in checked if one["level"] == "ok"])
