"""Serves the live workers: everybody sees them, admins have them drain, upgrade or resume."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from launch_worker.model.worker import WorkerOrder
from launch_worker.people.roles import Act
from launch_worker.server.asker import Asker, acting, allowed
from launch_worker.server.caching import as_json
from launch_worker.server.shared import Shared, SharedHere
from launch_worker.server.sight import Seen

router = APIRouter(tags=["workers"])


class WorkerShown(BaseModel):
    """A worker as of its last heartbeat, with the number of its runs as it is now."""

    model_config = ConfigDict(extra="allow")

    worker: str = Field(description="Node name.", examples=["celery@gpu1"])
    host: str
    queues: list[str]
    slots: int
    running: int
    state: str = Field(description="running, draining, quarantined or stuck.", examples=["running"])
    problem: str
    devices: list[dict[str, Any]] = Field(description="GPUs, and the runs that hold each.")


class Workers(BaseModel):
    """The live workers."""

    workers: list[WorkerShown]


class GoneWorker(BaseModel):
    """A worker that is gone."""

    worker: str = Field(description="Node name.", examples=["celery@gpu1"])
    host: str
    queues: list[str]
    state: str = Field(description="lost, or left.", examples=["lost"])
    at: str = Field(description="Time at which it was found to be gone.")


class GoneWorkers(BaseModel):
    """Workers that are gone, the newest first."""

    workers: list[GoneWorker]


class Ordered(BaseModel):
    """What became of an order."""

    worker: str
    order: WorkerOrder
    told: int = Field(description="Workers of that name that heard it.")


@router.get("/workers", response_model=Workers)
def list_workers(shared: SharedHere, asker: Annotated[Asker, allowed(Act.SEE_SYSTEM)]) -> Response:
    """The live workers."""
    return as_json({"workers": Seen(shared, asker.person).workers(shared.connection.workers())})


@router.get("/workers/gone", response_model=GoneWorkers)
def list_gone_workers(shared: SharedHere, asker: Annotated[Asker, allowed(Act.SEE_SYSTEM)]) -> Response:
    """The workers that were lost or left in the last hour; only for those who see every project."""
    gone = shared.connection.gone_workers() if Seen(shared, asker.person).is_all else []
    return as_json({"workers": gone})


@router.post("/workers/{worker}/drain")
def drain_worker(
    worker: str, shared: SharedHere, asker: Annotated[Asker, acting(Act.SET_WORKERS, what="drain", kind="worker")]
) -> Ordered:
    """Let a worker end its jobs, take nothing new, and leave."""
    return _order(shared, asker, worker, "drain")


@router.post("/workers/{worker}/upgrade")
def upgrade_worker(
    worker: str, shared: SharedHere, asker: Annotated[Asker, acting(Act.SET_WORKERS, what="upgrade", kind="worker")]
) -> Ordered:
    """Let a worker leave at once, without ending its jobs; one with the same name goes on with them."""
    return _order(shared, asker, worker, "upgrade")


@router.post("/workers/{worker}/resume")
def resume_worker(
    worker: str, shared: SharedHere, asker: Annotated[Asker, acting(Act.SET_WORKERS, what="resume", kind="worker")]
) -> Ordered:
    """End the quarantine of a worker."""
    return _order(shared, asker, worker, "resume")


def _order(shared: Shared, asker: Asker, worker: str, word: WorkerOrder) -> Ordered:
    return Ordered(worker=worker, order=word, told=shared.transport(asker.person.name).order(worker, word))
