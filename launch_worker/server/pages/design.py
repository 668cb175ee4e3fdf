"""Shows all components on one page, to who has the key of loopback: for who builds pages."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from starlette.responses import Response

from launch_worker.errors import NotFoundError
from launch_worker.model.states import RunState
from launch_worker.people.roles import Act
from launch_worker.server.asker import Asker, allowed
from launch_worker.server.pages.shown import show
from launch_worker.server.shared import SharedHere

router = APIRouter(include_in_schema=False)


@router.get("/design")
def design_page(request: Request, shared: SharedHere, asker: Annotated[Asker, allowed(Act.SEE_SELF)]) -> Response:
    """The components, with values that are made up."""
    if asker.person.how != "loopback":
        raise NotFoundError("there is nothing at this address; see /api")
    return show(request, shared, asker, "design", states=[state.value for state in RunState])
