"""Serves the metrics of the whole system to Prometheus, behind a login: a token of a service account."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from starlette.responses import Response

from launch_worker.people.roles import Act
from launch_worker.prometheus.metrics import SYSTEM
from launch_worker.prometheus.system import System
from launch_worker.server.asker import Asker, allowed
from launch_worker.server.shared import SharedHere

router = APIRouter(tags=["probes"])


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(shared: SharedHere, asker: Annotated[Asker, allowed(Act.SEE_METRICS)]) -> Response:
    """The metrics of the whole system, as Prometheus reads them; `launch_up 0` alone while Redis is away."""
    # Imported here: few servers are scraped.
    from launch_worker.prometheus.text import CONTENT_TYPE, as_text

    text = as_text(SYSTEM, System(shared.connection.store, shared.settings).values())
    return Response(text, headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})
