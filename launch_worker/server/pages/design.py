"""Shows all components on one page, to who has the key of loopback: for who builds pages."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from launch_worker.errors import NotFoundError
from launch_worker.model.history import Phase, Transition
from launch_worker.model.states import RunState
from launch_worker.people.roles import Act
from launch_worker.server.asker import Asker, allowed
from launch_worker.server.charts import Column, Series, spark, timeline
from launch_worker.server.pages.shown import show
from launch_worker.server.shared import SharedHere

router = APIRouter(include_in_schema=False)


@router.get("/design")
def design_page(request: Request, shared: SharedHere, asker: Annotated[Asker, allowed(Act.SEE_SELF)]) -> Response:
    """The components, with values that are made up."""
    if asker.person.how != "loopback":
        raise NotFoundError("there is nothing at this address; see /api")
    values: dict[str, Any] = {
        "series": _series(),
        "spark": spark(_LOSS),
        "attempts": timeline(_STEPS, _PHASES, now_us=300 * _S),
    }
    return show(request, shared, asker, "design", states=[state.value for state in RunState], **values)


_S = 1_000_000
_LOSS = [round(2.5 * 0.93**step + 0.05 * (step * 7 % 5), 3) for step in range(60)]
_STEPS = (
    Transition(RunState.PENDING, 0, 0, "", ""),
    Transition(RunState.RUNNING, 20 * _S, 1, "lab3", ""),
    Transition(RunState.CRASHED, 120 * _S, 1, "lab3", ""),
    Transition(RunState.PENDING, 120 * _S, 1, "", ""),
    Transition(RunState.RUNNING, 130 * _S, 2, "lab4", ""),
)
_PHASES = (Phase("fetch", 130 * _S, 20.0), Phase("pull", 150 * _S, 40.0), Phase("start", 190 * _S, 5.0))


def _series() -> Series:
    memory = [(4 << 30) + (step << 27) for step in range(60)]
    columns = (
        Column("train/loss", _LOSS, "loss"),
        Column("val/loss", [None if step % 5 else value + 0.2 for step, value in enumerate(_LOSS)], "loss"),
        Column("memory", memory, "Memory", "bytes", 16 << 30),
    )
    return Series("step", "", range(60), columns)
