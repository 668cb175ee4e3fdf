"""Serves the forms by which a browser logs in, and makes the first admin, without a script."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, RedirectResponse, Response

from launch_worker.errors import InputError, LaunchError
from launch_worker.people.directory import SESSION_S
from launch_worker.people.roles import Act
from launch_worker.server.asker import Asker, address_of, allowed, for_everybody, set_cookie
from launch_worker.server.forms import form_of
from launch_worker.server.problems import status_of
from launch_worker.server.routes.account import check_passwords, end_session, start_session
from launch_worker.server.shared import Shared, SharedHere
from launch_worker.server.templating import page

router = APIRouter(include_in_schema=False)


def login_form(shared: Shared, *, next: str, name: str = "", problem: LaunchError | None = None) -> Response:
    """The page with the ways to log in, and with what was wrong with the last try."""
    text = page(
        "login",
        next=local(next),
        name=name,
        problem=str(problem or ""),
        provider=shared.provider.name if shared.provider is not None else "",
        passwords=shared.settings.takes_passwords,
    )
    return HTMLResponse(text, 200 if problem is None else status_of(problem))


@router.get("/login", dependencies=[for_everybody])
def login_page(shared: SharedHere, next: str = "/") -> Response:
    """The ways to log in."""
    return login_form(shared, next=next)


@router.post("/login", dependencies=[for_everybody])
async def login_by_form(request: Request, shared: SharedHere) -> Response:
    """Log in, and go on to the page that was asked for."""
    name, password, after = await fields(request, "name", "password", "next")
    try:
        _, secret = await start_session(request, shared, name[:255], password[:1024])
    except LaunchError as error:
        return login_form(shared, next=after, name=name, problem=error)
    answer = RedirectResponse(local(after), 303)
    set_cookie(request, answer, secret, max_age_s=int(SESSION_S))
    return answer


@router.post("/logout")
def logout_by_form(request: Request, shared: SharedHere, asker: Annotated[Asker, allowed(Act.SEE_SELF)]) -> Response:
    """End the session of this browser."""
    answer = RedirectResponse("/login", 303)
    end_session(request, answer, shared, asker.person)
    return answer


@router.get("/first-admin", dependencies=[for_everybody])
def first_admin_page(secret: str = "") -> Response:
    """The form to which the link leads that the server prints while nobody is an admin."""
    return HTMLResponse(page("first-admin", secret=secret, name="", problem=""))


@router.post("/first-admin", dependencies=[for_everybody])
async def make_first_admin_by_form(request: Request, shared: SharedHere) -> Response:
    """Make the first admin, and log them in."""
    secret, name, password, again = await fields(request, "secret", "name", "password", "again")
    agent = request.headers.get("user-agent", "")
    try:
        check_passwords(shared)
        if password != again:
            raise InputError("the two passwords differ")
        _, session = await run_in_threadpool(
            shared.directory.make_first_admin, secret, name, password, address=address_of(request), agent=agent
        )
    except LaunchError as error:
        text = page("first-admin", secret=secret, name=name, problem=str(error))
        return HTMLResponse(text, status_of(error))
    answer = RedirectResponse("/", 303)
    set_cookie(request, answer, session, max_age_s=int(SESSION_S))
    return answer


async def fields(request: Request, *names: str) -> list[str]:
    """The fields of a form, '' for one that is not there."""
    form = await form_of(request)
    return [form.raw(name) for name in names]


def local(path: str) -> str:
    """The path if it is one of this server, else the entrance."""
    is_local = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if is_local and len(path) < 2000 else "/"
