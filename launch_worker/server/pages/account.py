"""Shows a person their own login: roles, tokens, browsers, password, and what their runs may have at once."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from launch_worker.errors import LaunchError
from launch_worker.people.registry import Registry
from launch_worker.people.roles import Act
from launch_worker.server.asker import Asker, allowed
from launch_worker.server.forms import FormHere
from launch_worker.server.pages.shown import show
from launch_worker.server.problems import status_of
from launch_worker.server.routes import people
from launch_worker.server.routes.login_page import local
from launch_worker.server.routes.people import EndingSession, RevokingToken
from launch_worker.server.shared import Shared, SharedHere

router = APIRouter(include_in_schema=False)
Self = Annotated[Asker, allowed(Act.SEE_SELF)]


@router.get("/account")
def account_page(request: Request, shared: SharedHere, asker: Self) -> Response:
    """Who I am here."""
    return _account(request, shared, asker)


@router.post("/account/tokens/{token_id}/revoke")
def revoke_token(token_id: str, form: FormHere, shared: SharedHere, asker: RevokingToken) -> Response:
    """Revoke an own token, or for an admin anybody's."""
    people.revoke_token(token_id, shared, asker)
    return RedirectResponse(local(form.text("next")), 303)


@router.post("/account/sessions/{session_id}/end")
def end_session(session_id: str, form: FormHere, shared: SharedHere, asker: EndingSession) -> Response:
    """Log an own browser out, or for an admin anybody's."""
    people.revoke_session(session_id, shared, asker)
    return RedirectResponse(local(form.text("next")), 303)


@router.post("/account/password")
async def change_password(request: Request, form: FormHere, shared: SharedHere, asker: Self) -> Response:
    """Change the own password; other browsers are logged out."""
    answer = RedirectResponse("/account", 303)
    wanted = people.NewPassword(old=form.raw("old")[:1024], new=form.raw("new")[:1024])
    try:
        if form.raw("new") != form.raw("again"):
            return await run_in_threadpool(_account, request, shared, asker, "the two passwords differ", 422)
        await people.change_password(wanted, request, answer, shared, asker)
    except LaunchError as error:
        return await run_in_threadpool(_account, request, shared, asker, str(error), status_of(error))
    return answer


def _account(request: Request, shared: Shared, asker: Asker, problem: str = "", code: int = 200) -> Response:
    name = asker.person.name
    registry = Registry(shared.database, actor=name)
    return show(
        request,
        shared,
        asker,
        "account",
        code=code,
        problem=problem,
        tokens=[token.as_json() for token in registry.tokens(name)],
        sessions=[session.as_json() for session in registry.sessions(name)],
        allowances=people.seen_allowances(shared, asker.person) if asker.person.highest else [],
        takes_passwords=shared.settings.takes_passwords and asker.person.how == "session",
    )
