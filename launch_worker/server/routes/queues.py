"""Serves queues and pools: everybody sees them, admins make, change, pause and delete them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from launch_worker.people.roles import Act
from launch_worker.server.asker import Asker, acting, allowed
from launch_worker.server.caching import as_json
from launch_worker.server.shared import SharedHere
from launch_worker.server.sight import Seen

router = APIRouter(tags=["queues"])

Seeing = Annotated[Asker, allowed(Act.SEE_SYSTEM)]


class PoolSettings(BaseModel):
    """The settings of a pool. null takes one away; one that is not there stays as it is."""

    model_config = ConfigDict(extra="forbid", strict=True)

    limit: int | None = Field(None, description="Most runs at once of all its queues.", examples=[8])
    defaults: dict[str, Any] | None = Field(None, description="Defaults of runs: options of launch-submit by name.")
    admits: dict[str, str | None] | None = Field(
        None, description="Highest priority of each user group that may submit.", examples=[{"ml": "high", "*": "low"}]
    )
    description: str | None = None


class QueueSettings(PoolSettings):
    """The settings of a queue. null takes one away; one that is not there stays as it is."""

    pool: str | None = Field(None, examples=["gpus"])
    rank: int | None = Field(None, description="Its place in the pool, 1 the first.")
    resource: str | None = Field(None, description="process or container.", examples=["container"])
    container: dict[str, Any] | None = None
    variables: dict[str, Any] | None = Field(None, description="JSON Schema of the queue's template variables.")
    macro_env: list[str] | None = None
    allow_env: list[str] | None = Field(
        None, description="Patterns of the worker's variables that a run may ask for; empty: no rule of the queue."
    )
    allow_uris: list[str] | None = Field(
        None, description="Patterns of git URLs from which code may come; empty: no rule of the queue."
    )
    priorities: bool | None = None
    sandbox: str | None = Field(None, description="none, private or strict.", examples=["private"])
    writable: list[str] | None = Field(
        None, description="Folders in which a process in a sandbox may write.", examples=[["/data"]]
    )
    run_as: str | None = Field(None, description="Account of its processes, or submitter.", examples=["jobs"])
    accounts: dict[str, str | None] | None = Field(
        None, description="Account of each submitter.", examples=[{"ada": "ada"}]
    )
    limits: dict[str, Any] | None = Field(
        None,
        description="Most memory, pids and cpus of one job's processes.",
        examples=[{"memory": "16G", "pids": 500}],
    )
    sealing_key: str | None = Field(None, description="Public key by which secrets of its runs are sealed.")
    signers: list[str] | None = Field(
        None, description="Trusted keys that may sign its runs, * for each; empty: its runs need no signature."
    )


class NewQueue(QueueSettings):
    """A queue to be made."""

    name: str = Field(examples=["gpu"])


class NewPool(PoolSettings):
    """A pool to be made."""

    name: str = Field(examples=["gpus"])


class PoolShown(BaseModel):
    """A pool as it is now."""

    name: str = Field(examples=["gpus"])
    waiting: int
    running: int
    limit: int | None
    paused: bool
    queues: list[str] = Field(description="Its queues, in the order in which they are served.")
    description: str | None
    admits: dict[str, str] = Field(description="User groups that may submit, * for everybody; empty: all may.")
    defaults: dict[str, Any]
    problem: str | None = Field(description="Why its settings cannot be read.")


class QueueShown(BaseModel):
    """A queue as it is now."""

    name: str = Field(examples=["gpu"])
    waiting: int = Field(description="Runs that are ready.")
    later: int = Field(description="Runs that wait for their time or for other runs.")
    running: int
    limit: int | None
    paused: bool
    pool: str | None
    rank: int | None
    workers: int = Field(description="Live workers that consume it.")
    resource: str | None
    description: str | None
    admits: dict[str, str] = Field(description="User groups that may submit, * for everybody; empty: all may.")
    container: dict[str, Any]
    defaults: dict[str, Any]
    variables: dict[str, Any]
    macro_env: list[str]
    allow_env: list[str]
    allow_uris: list[str]
    priorities: bool
    sandbox: str | None = Field(description="private or strict.")
    writable: list[str]
    run_as: str | None
    accounts: dict[str, str]
    limits: dict[str, Any] = Field(description="Memory in bytes, pids and cpus.")
    sealing_key: str | None = Field(description="Public key by which secrets of its runs are sealed.")
    signers: list[str] = Field(description="Trusted keys that may sign its runs, * for each; empty: none needed.")
    problem: str | None = Field(description="Why its settings cannot be read; runs are refused meanwhile.")


class Queues(BaseModel):
    """All queues."""

    queues: list[QueueShown]


class Pools(BaseModel):
    """All pools."""

    pools: list[PoolShown]


@router.get("/queues", response_model=Queues)
def list_queues(shared: SharedHere, asker: Seeing) -> Response:
    """Every queue, by name."""
    queues = [queue.as_json() for queue in shared.connection.queues()]
    return as_json({"queues": Seen(shared, asker.person).queues(queues)})


@router.get("/queues/{name}", response_model=QueueShown)
def show_queue(name: str, shared: SharedHere, asker: Seeing) -> Response:
    """One queue."""
    [queue] = Seen(shared, asker.person).queues([shared.connection.queue(name).as_json()])
    return as_json(queue)


@router.post("/queues", status_code=201)
def create_queue(
    queue: NewQueue,
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.SET_QUEUES, what="create", kind="queue", is_named_late=True)],
) -> QueueShown:
    """Make a queue; refused where it is there already."""
    settings = queue.model_dump(exclude_unset=True)
    name = settings.pop("name")
    asker.begin(name)
    transport = shared.transport(asker.person.name)
    transport.configure("queue", name, settings, create=True)
    return QueueShown(**transport.queue(name).as_json())


@router.patch("/queues/{name}")
def set_queue(
    name: str,
    settings: QueueSettings,
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.SET_QUEUES, what="set", kind="queue")],
) -> QueueShown:
    """Change some settings. Runs that were submitted keep the defaults that they got."""
    transport = shared.transport(asker.person.name)
    transport.configure("queue", name, settings.model_dump(exclude_unset=True), create=False)
    return QueueShown(**transport.queue(name).as_json())


@router.post("/queues/{name}/pause")
def pause_queue(
    name: str, shared: SharedHere, asker: Annotated[Asker, acting(Act.SET_QUEUES, what="pause", kind="queue")]
) -> QueueShown:
    """Let nothing of the queue start any more; what runs goes on."""
    transport = shared.transport(asker.person.name)
    transport.pause("queue", name, paused=True)
    return QueueShown(**transport.queue(name).as_json())


@router.post("/queues/{name}/resume")
def resume_queue(
    name: str, shared: SharedHere, asker: Annotated[Asker, acting(Act.SET_QUEUES, what="resume", kind="queue")]
) -> QueueShown:
    """Let a paused queue go on."""
    transport = shared.transport(asker.person.name)
    transport.pause("queue", name, paused=False)
    return QueueShown(**transport.queue(name).as_json())


@router.delete("/queues/{name}", status_code=204, responses={409: {"description": "Runs wait in it."}})
def delete_queue(
    name: str, shared: SharedHere, asker: Annotated[Asker, acting(Act.SET_QUEUES, what="delete", kind="queue")]
) -> None:
    """Take a queue and its settings away; refused while runs wait in it."""
    shared.transport(asker.person.name).drop("queue", name)


@router.get("/pools", response_model=Pools)
def list_pools(shared: SharedHere, asker: Seeing) -> Response:
    """Every pool, by name."""
    pools = [pool.as_json() for pool in shared.connection.pools()]
    return as_json({"pools": Seen(shared, asker.person).pools(pools)})


@router.get("/pools/{name}", response_model=PoolShown)
def show_pool(name: str, shared: SharedHere, asker: Seeing) -> Response:
    """One pool."""
    [pool] = Seen(shared, asker.person).pools([shared.connection.pool(name).as_json()])
    return as_json(pool)


@router.post("/pools", status_code=201)
def create_pool(
    pool: NewPool,
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.SET_POOLS, what="create", kind="pool", is_named_late=True)],
) -> PoolShown:
    """Make a pool; refused where it is there already."""
    settings = pool.model_dump(exclude_unset=True)
    name = settings.pop("name")
    asker.begin(name)
    transport = shared.transport(asker.person.name)
    transport.configure("pool", name, settings, create=True)
    return PoolShown(**transport.pool(name).as_json())


@router.patch("/pools/{name}")
def set_pool(
    name: str,
    settings: Annotated[PoolSettings, Body()],
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.SET_POOLS, what="set", kind="pool")],
) -> PoolShown:
    """Change some settings of a pool."""
    transport = shared.transport(asker.person.name)
    transport.configure("pool", name, settings.model_dump(exclude_unset=True), create=False)
    return PoolShown(**transport.pool(name).as_json())


@router.post("/pools/{name}/pause")
def pause_pool(
    name: str, shared: SharedHere, asker: Annotated[Asker, acting(Act.SET_POOLS, what="pause", kind="pool")]
) -> PoolShown:
    """Let nothing of any queue of the pool start any more; what runs goes on."""
    transport = shared.transport(asker.person.name)
    transport.pause("pool", name, paused=True)
    return PoolShown(**transport.pool(name).as_json())


@router.post("/pools/{name}/resume")
def resume_pool(
    name: str, shared: SharedHere, asker: Annotated[Asker, acting(Act.SET_POOLS, what="resume", kind="pool")]
) -> PoolShown:
    """Let a paused pool go on; a queue that is paused itself stays paused."""
    transport = shared.transport(asker.person.name)
    transport.pause("pool", name, paused=False)
    return PoolShown(**transport.pool(name).as_json())


@router.delete("/pools/{name}", status_code=204, responses={409: {"description": "Queues are in it."}})
def delete_pool(
    name: str, shared: SharedHere, asker: Annotated[Asker, acting(Act.SET_POOLS, what="delete", kind="pool")]
) -> None:
    """Take a pool away; refused while queues are in it."""
    shared.transport(asker.person.name).drop("pool", name)
