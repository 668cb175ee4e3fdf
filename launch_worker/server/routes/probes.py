"""Answers the probes of a service manager or a load balancer."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from launch_worker.errors import LaunchError
from launch_worker.server.asker import for_everybody
from launch_worker.server.shared import SharedHere

router = APIRouter(tags=["probes"], dependencies=[for_everybody])


class Verdict(BaseModel):
    """Whether a probe is content, and why."""

    ok: bool
    reason: str = Field(examples=["Redis answers"])


@router.get("/live", response_model=Verdict)
async def live() -> JSONResponse:
    """Whether the server works at all, also while Redis is away."""
    return _answer(True, "the server works")


@router.get("/ready", response_model=Verdict, responses={503: {"description": "Not now; `reason` says why."}})
def ready(shared: SharedHere) -> JSONResponse:
    """Whether the server can be asked: Redis answers, and it is not stopping."""
    if shared.stopping.is_set():
        return _answer(False, "the server stops")
    # A wrong login of either shows at the start, and not first when somebody acts.
    for setting, connection in (("LAUNCH_REDIS_READ_URL", shared.connection), ("LAUNCH_REDIS_URL", shared.acting)):
        try:
            connection.store.ping()
        except LaunchError as error:
            named = setting if shared.connection is not shared.acting else "LAUNCH_REDIS_URL"
            return _answer(False, str(error).replace("LAUNCH_REDIS_URL", named))
    return _answer(True, "Redis answers")


def _answer(ok: bool, reason: str) -> JSONResponse:
    return JSONResponse({"ok": ok, "reason": reason}, 200 if ok else 503, headers={"Cache-Control": "no-store"})
