"""Serves sweeps: seen with their project, steered by their owners."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from launch_worker.api.sweeps import MAX_WORKERS
from launch_worker.errors import InputError
from launch_worker.ids import check_run_id
from launch_worker.model.checks import KEY, MAX_LIMIT
from launch_worker.model.masking import masked_spec
from launch_worker.model.sweep import SweepOrder, SweepRecord, unknown_sweep
from launch_worker.people.roles import Act
from launch_worker.server.asker import Asker, acting, allowed
from launch_worker.server.caching import as_json
from launch_worker.server.served import Served
from launch_worker.server.shared import Shared, SharedHere
from launch_worker.server.sight import Seen
from launch_worker.server.waiting import wait_for
from launch_worker.sweeps.config import parse_config
from launch_worker.sweeps.search import check_engines, suggest
from launch_worker.sweeps.trial import spec_of
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

    reason: str = Field("", max_length=1000, examples=["it is too slow"])


class Steered(BaseModel):
    """What became of an order."""

    done: bool = Field(description="False where the sweep's state does not allow it.")
    state: str


@router.get("/sweeps", response_model=Sweeps)
def list_sweeps(shared: SharedHere, asker: Seeing) -> Response:
    """All sweeps, the newest first."""
    seen = Seen(shared, asker.person)
    found = [_shown(record) for record in shared.connection.sweeps() if seen.sees(record.project)]
    return as_json({"sweeps": found})


@router.get("/sweeps/{sweep_id}", response_model=SweepShown)
def show_sweep(sweep_id: str, shared: SharedHere, asker: Seeing) -> Response:
    """One sweep."""
    return as_json(_shown(sweep_of(shared, asker, sweep_id)))


@router.get("/sweeps/{sweep_id}/trials", response_model=Trials)
def list_trials(sweep_id: str, shared: SharedHere, asker: Seeing) -> Response:
    """The runs of a sweep, with their parameters and results."""
    sweep_of(shared, asker, sweep_id)
    return as_json({"trials": [asdict(trial) for trial in shared.connection.trials(sweep_id)]})


@router.get("/sweeps/{sweep_id}/wait")
async def wait_for_sweep(
    sweep_id: str,
    shared: SharedHere,
    asker: Seeing,
    state: Annotated[str, Query(max_length=20, description="The state that is known.")] = "RUNNING",
    timeout: Annotated[float, Query(ge=0, le=3600, description="Seconds at most.")] = 20,
) -> SweepShown:
    """Answer when a sweep's state is another one, or it is over, or after the timeout: the sweep as it is then."""
    served = await run_in_threadpool(Served, shared, asker)

    def look() -> SweepRecord:
        return sweep_of(shared, asker, sweep_id)

    def is_new(record: SweepRecord) -> bool:
        return record.is_over or record.state != state

    found = await wait_for(shared, served, sweep_id, look, is_new, timeout_s=timeout)
    return SweepShown(**_shown(found))


@router.post("/sweeps/{sweep_id}/pause")
def pause_sweep(
    sweep_id: str,
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.SET_SWEEPS, what="pause", kind="sweep")],
    why: Steering | None = None,
) -> Steered:
    """Make no more runs until it is resumed."""
    return steer(shared, asker, sweep_id, "pause", why)


@router.post("/sweeps/{sweep_id}/resume")
def resume_sweep(
    sweep_id: str,
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.SET_SWEEPS, what="resume", kind="sweep")],
    why: Steering | None = None,
) -> Steered:
    """Go on after a pause."""
    return steer(shared, asker, sweep_id, "resume", why)


@router.post("/sweeps/{sweep_id}/stop")
def stop_sweep(
    sweep_id: str,
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.SET_SWEEPS, what="stop", kind="sweep")],
    why: Steering | None = None,
) -> Steered:
    """Make no more runs, and be FINISHED when the running ones have ended."""
    return steer(shared, asker, sweep_id, "stop", why)


@router.post("/sweeps/{sweep_id}/cancel")
def cancel_sweep(
    sweep_id: str,
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.SET_SWEEPS, what="cancel", kind="sweep")],
    why: Steering | None = None,
) -> Steered:
    """Kill its running and pending runs, and be CANCELED when they are."""
    return steer(shared, asker, sweep_id, "cancel", why)


class NewSweep(BaseModel):
    """A sweep to be made."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(
        description="A run's id is one; a repeated request makes no second sweep. Who does not see all projects gets "
        "an id made of it.",
        examples=["1m83cyvtfq1tc69"],
    )
    name: str = Field("", max_length=255)
    config: dict[str, Any] = Field(
        description="The configuration, as a file of `launch-worker sweep create` has it.",
        examples=[{"method": "grid", "parameters": {"lr": {"values": [0.1, 0.2]}}, "command": ["python", "train.py"]}],
    )
    given: dict[str, Any] = Field(default={}, description="Options of its runs.", examples=[{"queue": "gpu"}])
    workers: int = Field(1, ge=1, le=MAX_WORKERS)
    cap: int | None = Field(None, ge=1, le=MAX_LIMIT)
    seed: int = Field(0, ge=0, lt=1 << 32)


@router.post("/sweeps", status_code=201)
def create_sweep(
    new: NewSweep,
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.SUBMIT, what="create", kind="sweep", is_named_late=True)],
) -> SweepShown:
    """Start a sweep; its first runs are made at once."""
    served = Served(shared, asker)
    config = parse_config(new.config, where="the sweep's configuration", has_image=new.given.get("image") is not None)
    check_engines(config, where="the sweep's configuration")
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in new.given.items()}
    if config.project:
        given.setdefault("project", config.project)
    sweep_id = served.sweep_id(check_run_id(new.id), str(given.get("project") or ""))
    asker.begin(sweep_id)
    try:
        # A run of it is tried first: mistakes, and what the person may not do, are told before there is a sweep.
        first = suggest(config, (), seed=new.seed, ended=(), study=sweep_id)
        sample = spec_of(given, config, first, sweep_id=sweep_id, index=0)
    except TypeError as error:
        raise InputError(f"the options of the sweep's runs cannot be used: {error}") from None
    served.check_waits(served.complete(given | {"command": sample.command}, fresh=True))
    found = shared.connection.sweep(sweep_id)
    if found is not None and found.user != asker.person.name:
        raise InputError(f"there is a sweep {sweep_id} already")
    fields: dict[str, str | int] = {
        "name": new.name or config.name or sample.name.rpartition("-")[0],
        "config": config.to_json(),
        "given": json.dumps({"author": asker.person.name} | given),
        "workers": new.workers,
        "cap": min((cap for cap in (config.cap, new.cap) if cap is not None), default=""),
        "seed": new.seed,
        "metric": config.metric,
        "goal": ("maximize" if config.maximize else "minimize") if config.metric else "",
        "target": "" if config.target is None else repr(config.target),
        "watched": int(config.watches_metric),
    }
    served.create_sweep(sweep_id, fields)
    return SweepShown(**_shown(sweep_of(shared, asker, sweep_id)))


#: What the reason of a run says that was Killed by each order.
_STEERED: dict[SweepOrder, str] = {"stop": "stopped", "cancel": "cancelled", "pause": "paused", "resume": "resumed"}


def steer(shared: Shared, asker: Asker, sweep_id: str, word: SweepOrder, why: Steering | None = None) -> Steered:
    """Carry out an order of a person. Raises NotFoundError and NotAllowedError."""
    record = sweep_of(shared, asker, sweep_id)
    asker.check(Act.SET_SWEEPS, project=record.project, owner=record.user)
    # The reason names the person, whatever else it says.
    reason = f"sweep {sweep_id} was {_STEERED[word]} by {asker.person.name}"
    if why is not None and why.reason:
        reason = f"{reason}: {why.reason}"
    done, state = shared.transport(asker.person.name).steer_sweep(sweep_id, word, reason=reason)
    return Steered(done=done, state=state)


def sweep_of(shared: Shared, asker: Asker, sweep_id: str) -> SweepRecord:
    """A sweep that is there and seen. Raises NotFoundError."""
    record = shared.connection.sweep(sweep_id) if KEY.fullmatch(sweep_id) else None
    if record is None or not Seen(shared, asker.person).sees(record.project):
        raise unknown_sweep(sweep_id)
    return record


def _shown(record: SweepRecord) -> dict[str, Any]:
    return asdict(record) | {"config": read_map(record.config), "given": masked_spec(record.given)}
