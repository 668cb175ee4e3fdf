"""Turns every error into a problem document of RFC 9457, whose `detail` is the sentence of the command line."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode, urlsplit

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from launch_worker import errors
from launch_worker.people.throttle import TooManyLoginsError
from launch_worker.server.templating import page
from launch_worker.untrusted.text import clean

log = logging.getLogger("launch_worker.server")

CONTENT_TYPE = "application/problem+json"

#: Status of each error, the most special class first that an error is an instance of.
STATUSES: Mapping[type[errors.LaunchError], int] = {
    errors.DeletedRunError: 410,
    errors.NotFoundError: 404,
    errors.InputError: 422,
    TooManyLoginsError: 429,
    errors.LoginError: 401,
    errors.NotAllowedError: 403,
    errors.RefusedError: 409,
    errors.SweepOverError: 409,
    errors.RedisFullError: 507,
    errors.BrokerUnavailableError: 503,
    errors.ServerUnavailableError: 503,
    errors.ArchiveUnavailableError: 503,
}


class Problem(BaseModel):
    """What went wrong, as RFC 9457 has it."""

    type: str = Field(default="about:blank", description="Always about:blank: `code` tells errors apart.")
    title: str = Field(description="Meaning of the status.", examples=["Not Found"])
    status: int = Field(description="HTTP status.", examples=[404])
    detail: str = Field(
        description="One sentence that says what is wrong and what to do, the same as the command line's.",
        examples=["there is no run 'x'; look for it with: launch-worker runs"],
    )
    code: str = Field(
        description="Name of the error's class in `launch_worker.errors`.", examples=["UnknownRunError", "InputError"]
    )


def status_of(error: errors.LaunchError) -> int:
    """The HTTP status of an error of ours; 500 for one that no client can cause or mend."""
    return next((status for kind, status in STATUSES.items() if isinstance(error, kind)), 500)


def document(error: errors.LaunchError) -> dict[str, Any]:
    """An error of ours as the object of a problem document, for a stream that has begun."""
    status = status_of(error)
    return {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": str(error),
        "code": type(error).__name__,
    }


def problem(status: int, detail: str, *, code: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """A problem document."""
    title = HTTPStatus(status).phrase
    content = {"type": "about:blank", "title": title, "status": status, "detail": detail, "code": code}
    return JSONResponse(
        content, status, headers={"Cache-Control": "no-store"} | dict(headers or {}), media_type=CONTENT_TYPE
    )


def of_error(error: errors.LaunchError) -> JSONResponse:
    """The problem document of an error of ours."""
    status = status_of(error)
    headers = {"WWW-Authenticate": 'Bearer realm="launch_worker"'} if status == 401 else {}
    if isinstance(error, TooManyLoginsError):
        headers["Retry-After"] = str(max(1, round(error.wait_s)))
    return problem(status, str(error), code=type(error).__name__, headers=headers)


def handle_errors(application: FastAPI) -> None:
    """Have the application answer every error with a problem document."""
    application.add_exception_handler(errors.LaunchError, _ours)
    application.add_exception_handler(RequestValidationError, _invalid)
    application.add_exception_handler(HTTPException, _of_http)


async def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.LaunchError)
    # A part of an open page would show the login inside of it: its script leads there.
    is_part = request.headers.get("hx-request") == "true"
    if isinstance(error, errors.LoginError) and request.method == "GET" and _is_visit(request) and not is_part:
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"/login?{urlencode({'next': path})}", 303)
    if status_of(error) == 500:
        log.error("server.failed route=%s %s: %s", request.method, request.url.path, error)
    return for_who_asks(request, of_error(error), str(error))


def _is_visit(request: Request) -> bool:
    """Whether a person opens a page, or presses a button of one."""
    return not request.url.path.startswith("/api/") and "text/html" in request.headers.get("accept", "")


def for_who_asks(request: Request, answer: JSONResponse, sentence: str) -> Response:
    """The problem document, or for a person with a browser a page with its sentence and status."""
    if not _is_visit(request):
        return answer
    phrase = HTTPStatus(answer.status_code).phrase
    back = urlsplit(request.headers.get("referer", ""))
    # Only the path: the header may name another site.
    path = back.path if request.method != "GET" and back.path.startswith("/") and back.path[1:2] not in "/\\" else ""
    text = page("problem", title=phrase, problem=sentence, back=path)
    return HTMLResponse(text, answer.status_code, headers={"Cache-Control": "no-store"})


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first: dict[str, Any] = error.errors()[0]
    if first["type"] == "json_invalid":
        return problem(400, "the body is not JSON", code="InputError")
    where, *path = (str(part) for part in first["loc"])
    what = ".".join(path) or where
    place = {"query": "parameter", "path": "part of the path", "header": "header", "body": "field"}.get(where, where)
    named = f"the {place} {clean(what)[:100]}" if path else f"the {where}"
    return problem(422, f"{named} cannot be used: {clean(first['msg'])[:300].lower()}", code="InputError")


async def _of_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = error.detail
    if error.status_code == 404 and detail == "Not Found":
        detail = "there is nothing at this address; see /api"
    headers = error.headers
    if error.status_code == 405:
        detail = f"{request.method} is not possible here; see /api"
        # The framework names the methods of one route of several.
        headers = {"Allow": ", ".join(sorted(_methods_at(request)))}
    answer = problem(error.status_code, detail, code="InputError", headers=headers)
    return for_who_asks(request, answer, detail)


def _methods_at(request: Request) -> set[str]:
    return {
        method.upper()
        for path, methods in request.app.openapi()["paths"].items()
        if compile_path(path)[0].match(request.url.path)
        for method in methods
    } or {"GET"}
