"""Serves the form by which a browser logs in, without a script."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from launch_worker.errors import LaunchError
from launch_worker.people.directory import SESSION_S
from launch_worker.people.roles import Act
from launch_worker.server.asker import Asker, allowed, for_everybody, set_cookie
from launch_worker.server.pages import page
from launch_worker.server.problems import status_of
from launch_worker.server.routes.account import end_session, start_session
from launch_worker.server.shared import SharedHere

router = APIRouter(include_in_schema=False)


@router.get("/login", dependencies=[for_everybody])
def login_page(next: str = "/") -> Response:
    """The form."""
    return HTMLResponse(page("login", next=_local(next), name="", problem=""))


@router.post("/login", dependencies=[for_everybody])
async def login_by_form(request: Request, shared: SharedHere) -> Response:
    """Log in, and go on to the page that was asked for."""
    said = parse_qs((await request.body()).decode(errors="replace"))
    name, password, after = (said.get(field, [""])[0] for field in ("name", "password", "next"))
    try:
        _, secret = await start_session(request, shared, name[:255], password[:1024])
    except LaunchError as error:
        return HTMLResponse(page("login", next=_local(after), name=name, problem=str(error)), status_of(error))
    answer = RedirectResponse(_local(after), 303)
    set_cookie(request, answer, secret, max_age_s=int(SESSION_S))
    return answer


@router.post("/logout")
def logout_by_form(request: Request, shared: SharedHere, asker: Annotated[Asker, allowed(Act.SEE_SELF)]) -> Response:
    """End the session of this browser."""
    answer = RedirectResponse("/login", 303)
    end_session(request, answer, shared, asker.person)
    return answer


def _local(path: str) -> str:
    """The path if it is one of this server, else the entrance."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable() else "/"
