"""Shows how the system is on one page, what is wrong first."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from launch_worker.people.roles import Act
from launch_worker.server.asker import asker_of, for_everybody, is_loopback_key, set_cookie
from launch_worker.server.pages.shown import show, status_of
from launch_worker.server.shared import SharedHere

router = APIRouter(include_in_schema=False)
#: Seconds for which a browser keeps the key of loopback.
_KEY_S = 365 * 86400


@router.get("/", dependencies=[for_everybody])
def entrance(request: Request, shared: SharedHere, token: str = "") -> Response:
    """Let in who has the printed address, and take the key out of the address line; else show the overview."""
    if token:
        answer = RedirectResponse("/", 303, headers={"Cache-Control": "no-store"})
        if is_loopback_key(shared, token):
            set_cookie(request, answer, token, max_age_s=_KEY_S)
        return answer
    asker = asker_of(request)
    asker.check(Act.SEE_SYSTEM)
    return show(request, shared, asker, "overview", status=status_of(shared, asker))
