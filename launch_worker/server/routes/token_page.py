"""Serves the form by which a person makes a token for commands, without a script."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, Response

from launch_worker.errors import LaunchError
from launch_worker.server.problems import status_of
from launch_worker.server.routes.login_page import fields
from launch_worker.server.routes.people import NewToken, Own, create_token
from launch_worker.server.shared import SharedHere
from launch_worker.server.templating import page

router = APIRouter(include_in_schema=False)


@router.get("/token")
def token_page(request: Request, asker: Own) -> Response:
    """The form."""
    return _form(request, asker.person.name)


@router.post("/token")
async def make_token_by_form(request: Request, shared: SharedHere, asker: Own) -> Response:
    """Make a token, and show it, which is done this once."""
    name, expires = await fields(request, "name", "expires")
    wanted = NewToken(name=name, user=None, role="admin", expires=expires)
    try:
        made = await run_in_threadpool(create_token, wanted, shared, asker)
    except LaunchError as error:
        return _form(request, asker.person.name, name=name, expires=expires, problem=error)
    return _form(request, asker.person.name, token=made.token)


def _form(
    request: Request,
    person: str,
    *,
    name: str = "laptop",
    expires: str = "90d",
    token: str = "",
    problem: LaunchError | None = None,
) -> Response:
    here = f"{request.url.scheme}://{request.headers['host']}"
    text = page("token", person=person, here=here, name=name, expires=expires, token=token, problem=str(problem or ""))
    status = 200 if problem is None else status_of(problem)
    return HTMLResponse(text, status, headers={"Cache-Control": "no-store"})
