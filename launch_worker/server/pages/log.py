"""Shows the log of a run in the whole window."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from launch_worker.people.roles import Act
from launch_worker.server.asker import Asker, allowed
from launch_worker.server.pages.shown import is_fragment, show
from launch_worker.server.routes.lines import read_lines
from launch_worker.server.served import Served
from launch_worker.server.shared import SharedHere

router = APIRouter(include_in_schema=False)
#: Lines that are shown without JavaScript.
PLAIN_LINES = 200


@router.get("/runs/{run_id}/log")
def log_page(
    request: Request,
    shared: SharedHere,
    asker: Annotated[Asker, allowed(Act.SEE_RUNS)],
    run_id: str,
    attempt: Annotated[int | None, Query(ge=1)] = None,
) -> Response:
    """The last lines, and the viewer that takes their place."""
    served = Served(shared, asker)
    # The live part of an open page is its head.
    view = None if is_fragment(request) else read_lines(served, run_id, attempt, first=None, count=PLAIN_LINES)
    return show(request, shared, asker, "log", run=served.shown(run_id), view=view)
