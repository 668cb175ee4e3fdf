"""Shows groups (arrays, bulk submissions, sweeps), cancels them, tries their runs again, and waits for their ends."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from launch_worker.api.groups import unknown_group
from launch_worker.model.group import GroupRecord
from launch_worker.people.roles import Act
from launch_worker.server.asker import Asker, acting, allowed
from launch_worker.server.routes.acts import Cancel
from launch_worker.server.served import Served
from launch_worker.server.shared import SharedHere
from launch_worker.server.waiting import wait_for

router = APIRouter(tags=["groups"])
Seeing = Annotated[Asker, allowed(Act.SEE_RUNS)]
#: Groups of one answer at most.
_MOST_GROUPS = 1000


class Retry(BaseModel):
    """Which runs of a group are to be tried again."""

    only_failed: bool = Field(default=False, description="Only those that are not Finished.", examples=[True])
    not_on_same_worker: bool = Field(
        default=False, description="Each on another worker than its last one, while there is one that may take it."
    )


class Cancelled(BaseModel):
    """What became of the runs of a group."""

    killed: int
    requested: int


class Retried(BaseModel):
    """How many runs are tried again."""

    retried: int


class Members(BaseModel):
    """Ids of runs, in the order of their submission."""

    ids: list[str]


class RunGroups(BaseModel):
    """Groups by id."""

    groups: dict[str, dict[str, Any]]


def find_group(served: Served, group_id: str) -> GroupRecord:
    """The group. Raises UnknownRunError."""
    found = served.group(group_id)
    if found is None:
        raise unknown_group(group_id)
    return found


@router.get("/run-groups")
def show_groups(
    shared: SharedHere,
    asker: Seeing,
    ids: Annotated[str, Query(max_length=20_000, description="Ids with commas between them, 1000 at most.")],
) -> RunGroups:
    """Show groups and how many of their runs are in which state, without those whose counts you may not see."""
    found = Served(shared, asker).known_groups(ids.split(",")[:_MOST_GROUPS])
    return RunGroups(groups={group_id: asdict(one) for group_id, one in found.items()})


@router.get("/run-groups/{group_id}")
def show_group(shared: SharedHere, asker: Seeing, group_id: str) -> dict[str, Any]:
    """Show a group and how many of its runs are in which state."""
    return asdict(find_group(Served(shared, asker), group_id))


@router.get("/run-groups/{group_id}/runs")
def list_group_runs(
    shared: SharedHere,
    asker: Seeing,
    group_id: str,
    skip: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 500,
) -> Members:
    """List the ids of a group's runs."""
    served = Served(shared, asker)
    return Members(ids=served.group_runs(find_group(served, group_id), skip=skip, limit=limit))


@router.post("/run-groups/{group_id}/cancel")
def cancel_group(
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.ACT_ON_RUN, what="cancel", kind="group")],
    group_id: str,
    body: Cancel,
) -> Cancelled:
    """Ask for the end of all runs of a group; it gets no more."""
    served = Served(shared, asker)
    group = find_group(served, group_id)
    killed, requested = served.cancel_group(group, reason=body.reason, grace_s=body.grace_s)
    return Cancelled(killed=killed, requested=requested)


@router.post("/run-groups/{group_id}/retry")
def retry_group(
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.ACT_ON_RUN, what="retry", kind="group")],
    group_id: str,
    body: Retry,
) -> Retried:
    """Start a new attempt of all runs of a group that have ended, or of those that are not Finished."""
    served = Served(shared, asker)
    group = find_group(served, group_id)
    how = {"only_failed": body.only_failed, "not_on_same_worker": body.not_on_same_worker}
    return Retried(retried=served.retry_group(group, **how))


@router.get("/run-groups/{group_id}/wait")
async def wait_for_group(
    shared: SharedHere, asker: Seeing, group_id: str, timeout: Annotated[float, Query(ge=0, le=3600)] = 20
) -> dict[str, Any]:
    """Answer when all runs of a group have ended, or after the timeout: the group as it is then."""
    served = await run_in_threadpool(Served, shared, asker)

    def look() -> GroupRecord:
        return find_group(served, group_id)

    found = await wait_for(shared, served, group_id, look, lambda group: group.is_over, timeout_s=timeout)
    return asdict(found)
