"""Sends a browser to the identity provider, and takes it back with a login."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from launch_worker.errors import LaunchError, LoginError, NotFoundError
from launch_worker.people.directory import SESSION_S
from launch_worker.server.asker import address_of, cookie_name, for_everybody, set_cookie
from launch_worker.server.oidc import PENDING_S, PendingLogin, Provider, refused
from launch_worker.server.routes.login_page import local, login_form
from launch_worker.server.shared import Shared, SharedHere

router = APIRouter(include_in_schema=False, dependencies=[for_everybody])

#: Path of the way back, which the provider must know as this server's.
CALLBACK = "/login/oidc/callback"
#: Cookie of a login that has begun.
_PENDING = "_pending"


@router.get("/login/oidc")
async def begin_login(request: Request, shared: SharedHere, next: str = "/") -> Response:
    """Begin a login, and send the browser to the provider."""
    login = PendingLogin.begin(local(next))
    try:
        there = await _provider(shared).begin(login, callback=_callback(request))
    except LaunchError as error:
        return login_form(shared, next=next, problem=error)
    answer = RedirectResponse(there, 303, headers={"Cache-Control": "no-store"})
    set_cookie(request, answer, login.as_cookie(), max_age_s=PENDING_S, kind=_PENDING)
    return answer


@router.get(CALLBACK)
async def end_login(
    request: Request, shared: SharedHere, state: str = "", code: str = "", error: str = "", error_description: str = ""
) -> Response:
    """Take the browser back, make a session, and go on to the page that was asked for."""
    login = PendingLogin.from_cookie(request.cookies.get(cookie_name(request, _PENDING), ""))
    if login is None or not login.is_of(state):
        # The cookie stays: a stranger's link must not end a login that goes on.
        return login_form(shared, next="/", problem=LoginError("this login was not begun here, or is over; try again"))
    answer: Response
    try:
        if error or not code:
            raise refused(error or "no code came back", error_description)
        claims = await _provider(shared).claims(login, code, callback=_callback(request))
        agent = request.headers.get("user-agent", "")
        _, secret = await run_in_threadpool(
            shared.directory.login_by_claims, claims, address=address_of(request), agent=agent
        )
    except LaunchError as problem:
        answer = login_form(shared, next=login.after, problem=problem)
    else:
        answer = RedirectResponse(local(login.after), 303)
        set_cookie(request, answer, secret, max_age_s=int(SESSION_S))
    set_cookie(request, answer, "", max_age_s=0, kind=_PENDING)
    return answer


def _provider(shared: Shared) -> Provider:
    if shared.provider is None:
        raise NotFoundError("this server has no identity provider; an admin names one with LAUNCH_OIDC_URL")
    return shared.provider


def _callback(request: Request) -> str:
    """The address to which the provider sends the browser back; the name in it was checked by the fence."""
    return f"{request.url.scheme}://{request.headers['host']}{CALLBACK}"
