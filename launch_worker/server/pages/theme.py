"""Keeps the theme that a person chose, without a script."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from launch_worker.server.asker import for_everybody
from launch_worker.server.pages.shown import THEME, THEMES
from launch_worker.server.routes.login_page import fields, local

router = APIRouter(include_in_schema=False)
_KEEP_S = 365 * 86400


@router.post("/theme", dependencies=[for_everybody])
async def choose_theme(request: Request) -> Response:
    """Have the browser remember the theme, or for an empty one follow its system again."""
    theme, after = await fields(request, "theme", "next")
    answer = RedirectResponse(local(after), 303)
    if theme in THEMES:
        answer.set_cookie(THEME, theme, max_age=_KEEP_S, path="/", httponly=True, samesite="lax")
    else:
        answer.delete_cookie(THEME, path="/")
    return answer
