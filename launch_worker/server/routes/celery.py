"""Serves Celery's own page behind the server's login: its pages to viewers, its buttons by role."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator
from typing import Annotated

import httpx
from fastapi import APIRouter, Request
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse

from launch_worker.errors import InputError, NotAllowedError, NotFoundError, ServerUnavailableError
from launch_worker.people.roles import Act
from launch_worker.server.asker import Asker, acting, allowed
from launch_worker.server.celery_page import PREFIX
from launch_worker.server.served import Served
from launch_worker.server.shared import Shared, SharedHere

router = APIRouter(include_in_schema=False)

Draining = Annotated[Asker, acting(Act.SET_WORKERS, what="drain", kind="worker")]
Cancelling = Annotated[Asker, acting(Act.ACT_IN_CELERY, what="cancel", kind="run")]
Pressing = Annotated[Asker, acting(Act.SET_WORKERS, what="press", kind="celery")]

#: Headers of a request that the page needs.
_ASKED = (
    "accept",
    "accept-language",
    "content-type",
    "if-modified-since",
    "if-none-match",
    "range",
    "x-requested-with",
)
#: Headers of an answer that are not passed on: those of one connection, and those that the server decides.
_DROPPED = frozenset(("connection", "keep-alive", "transfer-encoding", "upgrade", "server", "date", "set-cookie"))
#: The one inline script of the page.
_SCRIPT = b"\nvar autorefresh = 1;\n"
POLICY = (
    f"default-src 'none'; script-src 'self' 'sha256-{base64.b64encode(hashlib.sha256(_SCRIPT).digest()).decode()}'; "
    # Its tables are styled in place.
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)

_SHUT_DOWN = re.compile(r"api/worker/shutdown/(.+)")
_OF_WORKERS = re.compile(r"api/(worker/|task/(timeout|rate-limit)/)")
_REVOKE = re.compile(r"api/task/revoke/(.+)")


@router.get(f"/{PREFIX}")
def celery_entrance(asker: Annotated[Asker, allowed(Act.SEE_CELERY)]) -> Response:
    """Add the slash that the page's own links need."""
    return RedirectResponse(f"/{PREFIX}/", 308)


@router.get(f"/{PREFIX}/{{path:path}}")
async def celery_page(
    path: str, request: Request, shared: SharedHere, asker: Annotated[Asker, allowed(Act.SEE_CELERY)]
) -> Response:
    """Celery's page."""
    if path == "metrics":
        raise InputError("the metrics of Celery's page are off: they have a line for each name of a run")
    return await _pass_on(request, shared)


@router.post(f"/{PREFIX}/api/worker/shutdown/{{worker:path}}")
def celery_shut_down(worker: str, shared: SharedHere, asker: Draining) -> Response:
    """The button "Shut down" drains: Celery's own word would have the jobs killed."""
    try:
        shared.transport(asker.person.name).order(worker, "drain")
    except InputError as error:
        # The page shows the text of an error as it is.
        return PlainTextResponse(str(error), 404)
    return JSONResponse({"message": f"{worker} takes nothing new and leaves when its jobs have ended"})


@router.post(f"/{PREFIX}/api/task/revoke/{{task:path}}")
async def celery_revoke(
    task: str,
    request: Request,
    shared: SharedHere,
    asker: Cancelling,
) -> Response:
    """The buttons "Revoke" and "Terminate" cancel a run, in the name of who asks."""
    if not await run_in_threadpool(_cancel, shared, task, asker):
        # A task of Celery that is no run.
        return await _pass_on(request, shared)
    return JSONResponse({"message": f"Revoked '{task}'"})


@router.post(f"/{PREFIX}/{{path:path}}")
async def celery_button(
    path: str,
    request: Request,
    shared: SharedHere,
    asker: Pressing,
) -> Response:
    """All other buttons, which change workers."""
    if not _OF_WORKERS.match(path):
        raise NotAllowedError("tasks of Celery are not sent from here; submit runs with: launch-submit")
    return await _pass_on(request, shared)


def _cancel(shared: Shared, run_id: str, asker: Asker) -> bool:
    """Whether it is a run, which is cancelled then."""
    try:
        Served(shared, asker).cancel(run_id, reason="cancelled on Celery's page", grace_s=None)
    except InputError:
        return False
    return True


async def _pass_on(request: Request, shared: Shared) -> Response:
    page = shared.celery_page
    if page is None:
        raise ServerUnavailableError("this server was started without Celery's page")
    if not {".", ".."}.isdisjoint(request.url.path.split("/")):
        # The client below would resolve them, and press another button than the one that was allowed.
        raise NotFoundError("Celery's page has no such address")
    headers = {name: request.headers[name] for name in _ASKED if name in request.headers}
    # Its answers are the browser's to uncompress.
    headers |= {"Accept-Encoding": "identity", "Host": request.headers["host"]}
    url = httpx.URL(path=request.url.path, query=request.url.query.encode())
    asked = page.client.build_request(request.method, url, headers=headers, content=await request.body())
    try:
        await page.wait_until_up()
        answer = await page.client.send(asked, stream=True)
    except (httpx.ConnectError, httpx.ConnectTimeout, TimeoutError):
        raise ServerUnavailableError("Celery's page is starting; try again in some seconds") from None
    except httpx.TransportError:
        raise ServerUnavailableError("Celery's page does not answer; the rest of the server does") from None
    kept = {
        name: value for name, value in answer.headers.items() if name not in _DROPPED and "access-control" not in name
    }
    return StreamingResponse(
        _content(answer),
        answer.status_code,
        kept | {"Content-Security-Policy": POLICY},
        background=BackgroundTask(answer.aclose),
    )


async def _content(answer: httpx.Response) -> AsyncIterator[bytes]:
    async for part in answer.aiter_raw():
        yield part
