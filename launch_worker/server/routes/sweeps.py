"""Serves sweeps: seen with their project, steered by their owners."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from launch_worker.model.checks import KEY
from launch_worker.model.run import masked_spec
from launch_worker.model.sweep import SweepOrder, SweepRecord, unknown_sweep
from launch_worker.people.roles import Act
from launch_worker.server.asker import Asker, acting, allowed
from launch_worker.server.caching import tagged
from launch_worker.server.shared import Shared, SharedHere
from launch_worker.server.sight import Seen
from launch_worker.untrusted.text import read_map

router = APIRouter(tags=["sweeps"])

Seeing = Annotated[Asker, allowed(Act.SEE_RUNS)]


class SweepShown(BaseModel):
    """A sweep as it is now."""

    model_config = ConfigDict(extra="allow")

    id: str = Field(examples=["1m83cyvtfq1tc69"])
    name: str
    state: str = Field(description="RUNNING, PAUSED, STOPPED, FINISHED or CANCELED.", examples=["RUNNING"])
    workers: int = Field(description="Its runs that are live at once, at most.")
    made: int = Field(description="Runs made so far.")
    cap: int | None = Field(description="Runs in all, at most.")
    live: int = Field(description="Runs that have not ended.")
    config: dict[str, Any] = Field(description="The configuration, as it was written.")
    given: dict[str, Any] = Field(description="Options of its runs; values that look secret are masked.")
    created_at: int = Field(description="Microseconds since 1970.")
    ended_at: int | None


class Sweeps(BaseModel):
    """All sweeps of projects that are seen, the newest first."""

    sweeps: list[SweepShown]


class Trials(BaseModel):
    """The runs of a sweep by number, with their parameters and results."""

    trials: list[dict[str, Any]]


class Steering(BaseModel):
    """Why a sweep is steered."""

    reason: str = Field("", max_length=1000)


class Steered(BaseModel):
    """What became of an order."""

    done: bool = Field(description="False where the sweep's state does not allow it.")
    state: str


@router.get("/sweeps", response_model=Sweeps)
def list_sweeps(request: Request, shared: SharedHere, asker: Seeing) -> Response:
    """All sweeps, the newest first."""
    seen = Seen(shared, asker.person)
    found = [_shown(record) for record in shared.connection.sweeps() if seen.sees(_project(record))]
    return tagged(request, {"sweeps": found})


@router.get("/sweeps/{sweep_id}", response_model=SweepShown)
def show_sweep(sweep_id: str, request: Request, shared: SharedHere, asker: Seeing) -> Response:
    """One sweep."""
    return tagged(request, _shown(_record(shared, asker, sweep_id)))


@router.get("/sweeps/{sweep_id}/trials", response_model=Trials)
def list_trials(sweep_id: str, request: Request, shared: SharedHere, asker: Seeing) -> Response:
    """The runs of a sweep, with their parameters and results."""
    _record(shared, asker, sweep_id)
    return tagged(request, {"trials": [asdict(trial) for trial in shared.connection.trials(sweep_id)]})


@router.post("/sweeps/{sweep_id}/pause")
def pause_sweep(
    sweep_id: str,
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.SET_SWEEPS, what="pause", kind="sweep")],
    why: Steering | None = None,
) -> Steered:
    """Make no more runs until it is resumed."""
    return _steer(shared, asker, sweep_id, "pause", why)


@router.post("/sweeps/{sweep_id}/resume")
def resume_sweep(
    sweep_id: str,
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.SET_SWEEPS, what="resume", kind="sweep")],
    why: Steering | None = None,
) -> Steered:
    """Go on after a pause."""
    return _steer(shared, asker, sweep_id, "resume", why)


@router.post("/sweeps/{sweep_id}/stop")
def stop_sweep(
    sweep_id: str,
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.SET_SWEEPS, what="stop", kind="sweep")],
    why: Steering | None = None,
) -> Steered:
    """Make no more runs, and be FINISHED when the running ones have ended."""
    return _steer(shared, asker, sweep_id, "stop", why)


@router.post("/sweeps/{sweep_id}/cancel")
def cancel_sweep(
    sweep_id: str,
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.SET_SWEEPS, what="cancel", kind="sweep")],
    why: Steering | None = None,
) -> Steered:
    """Kill its running and pending runs, and be CANCELED when they are."""
    return _steer(shared, asker, sweep_id, "cancel", why)


#: What the reason of a run says that was Killed by each order.
_STEERED: dict[SweepOrder, str] = {"stop": "stopped", "cancel": "cancelled", "pause": "paused", "resume": "resumed"}


def _steer(shared: Shared, asker: Asker, sweep_id: str, word: SweepOrder, why: Steering | None) -> Steered:
    record = _record(shared, asker, sweep_id)
    asker.check(Act.SET_SWEEPS, project=_project(record), owner=record.user)
    # The reason names the person, whatever else it says.
    reason = f"sweep {sweep_id} was {_STEERED[word]} by {asker.person.name}"
    if why is not None and why.reason:
        reason = f"{reason}: {why.reason}"
    done, state = shared.transport(asker.person.name).steer_sweep(sweep_id, word, reason=reason)
    return Steered(done=done, state=state)


def _record(shared: Shared, asker: Asker, sweep_id: str) -> SweepRecord:
    """A sweep that is there and seen. Raises NotFoundError."""
    record = shared.connection.sweep(sweep_id) if KEY.fullmatch(sweep_id) else None
    if record is None or not Seen(shared, asker.person).sees(_project(record)):
        raise unknown_sweep(sweep_id)
    return record


def _project(record: SweepRecord) -> str:
    return str(read_map(record.given).get("project") or "")


def _shown(record: SweepRecord) -> dict[str, Any]:
    return asdict(record) | {"config": read_map(record.config), "given": masked_spec(record.given)}
