"""Steers runs: cancels, preempts, retries, confirms and deletes them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from launch_worker.api.shown import run_as_json
from launch_worker.humane import plural
from launch_worker.model.many import ManyAct
from launch_worker.people.roles import Act
from launch_worker.server.asker import Asker, acting
from launch_worker.server.problems import document
from launch_worker.server.served import Served
from launch_worker.server.shared import SharedHere

router = APIRouter(tags=["runs"])
#: Runs of one request.
_MOST_IDS = 200
Cancelling = Annotated[Asker, acting(Act.ACT_ON_RUN, what="cancel", kind="run")]
Preempting = Annotated[Asker, acting(Act.ACT_ON_RUN, what="preempt", kind="run")]
Retrying = Annotated[Asker, acting(Act.ACT_ON_RUN, what="retry", kind="run")]
CancellingMany = Annotated[Asker, acting(Act.ACT_ON_RUN, what="cancel", kind="runs", is_named_late=True)]
RetryingMany = Annotated[Asker, acting(Act.ACT_ON_RUN, what="retry", kind="runs", is_named_late=True)]
DeletingMany = Annotated[Asker, acting(Act.ACT_ON_RUN, what="delete", kind="runs", is_named_late=True)]
Confirming = Annotated[Asker, acting(Act.CONFIRM_RUN, what="confirm", kind="run")]
Deleting = Annotated[Asker, acting(Act.ACT_ON_RUN, what="delete", kind="run")]


class Reason(BaseModel):
    """Why something is asked for."""

    reason: str = Field(
        default="",
        max_length=500,
        description="Added to the run's history, before who asked.",
        examples=["its loss does not fall"],
    )


class Cancel(Reason):
    """How a run is to end."""

    grace_s: float | None = Field(default=None, ge=0, le=86400, description="Seconds from SIGTERM to SIGKILL.")


class Again(BaseModel):
    """How a run is to be tried again."""

    from_scratch: bool = Field(default=False, description="Pass its newest checkpoint over.", examples=[True])
    not_on_same_worker: bool = Field(
        default=False, description="Not on the worker of its last attempt, while there is another."
    )


class Done(BaseModel):
    """What became of an act."""

    id: str
    done: str = Field(examples=["deleted"])


class Ids(BaseModel):
    """The runs to which something is done."""

    ids: list[str] = Field(min_length=1, max_length=_MOST_IDS, examples=[["1m83cyvtfq1tc69"]])


class CancelMany(Cancel, Ids):
    """Which runs are to end, and how."""


class BecameOf(BaseModel):
    """What became of one run."""

    id: str
    done: str = Field(description="killed, requested, Pending or deleted; empty where it was refused.")
    problem: dict[str, Any] | None = Field(default=None, description="Problem document of a refusal.")


class BecameOfThem(BaseModel):
    """What became of each run."""

    runs: list[BecameOf]


def _each(shared: SharedHere, asker: Asker, act: ManyAct, body: Ids) -> BecameOfThem:
    """Do it to each run, for which a run that is refused is no hindrance."""
    ids = list(dict.fromkeys(body.ids))
    asker.begin(plural(len(ids), "run"), ids=ids)
    reason, grace_s = (body.reason, body.grace_s) if isinstance(body, CancelMany) else ("", None)
    done = Served(shared, asker).act_on_many(act, ids, reason=reason, grace_s=grace_s)
    runs = [
        BecameOf(id=one.run_id, done=one.word, problem=None if one.refusal is None else document(one.refusal))
        for one in done
    ]
    if not any(one.done for one in runs):
        asker.fail(str(runs[0].problem and runs[0].problem["detail"]))
    return BecameOfThem(runs=runs)


@router.post("/runs/acts/cancel")
def cancel_runs(
    shared: SharedHere,
    asker: CancellingMany,
    body: CancelMany,
) -> BecameOfThem:
    """Ask for the end of each of these runs; says what became of each."""
    return _each(shared, asker, "cancel", body)


@router.post("/runs/acts/retry")
def retry_runs(
    shared: SharedHere,
    asker: RetryingMany,
    body: Ids,
) -> BecameOfThem:
    """Start a new attempt of each of these runs; says what became of each."""
    return _each(shared, asker, "retry", body)


@router.post("/runs/acts/delete")
def delete_runs(
    shared: SharedHere,
    asker: DeletingMany,
    body: Ids,
) -> BecameOfThem:
    """Delete each of these runs with all that is kept of it; says what became of each."""
    return _each(shared, asker, "delete", body)


@router.post("/runs/{run_id}/cancel")
def cancel_run(
    shared: SharedHere,
    asker: Cancelling,
    run_id: str,
    body: Cancel,
) -> dict[str, Any]:
    """Ask for a run's end: a Pending one is `killed` at once, a Running one's is `requested`."""
    served = Served(shared, asker)
    return {"id": run_id, "cancel": served.cancel(run_id, reason=body.reason, grace_s=body.grace_s)}


@router.post("/runs/{run_id}/preempt")
def preempt_run(
    shared: SharedHere,
    asker: Preempting,
    run_id: str,
    body: Reason,
) -> Done:
    """Ask for the end of a Running run's job, so that the run goes back to its queue."""
    Served(shared, asker).preempt(run_id, reason=body.reason)
    return Done(id=run_id, done="requested")


@router.post("/runs/{run_id}/retry")
def retry_run(shared: SharedHere, asker: Retrying, run_id: str, body: Again | None = None) -> Done:
    """Start a new attempt of a run that has ended; it goes on from the run's newest checkpoint, if there is one."""
    how = body or Again()
    Served(shared, asker).retry(run_id, from_scratch=how.from_scratch, not_on_same_worker=how.not_on_same_worker)
    return Done(id=run_id, done="Pending")


@router.post("/runs/{run_id}/confirm")
def confirm_run(shared: SharedHere, asker: Confirming, run_id: str) -> dict[str, Any]:
    """Say that nothing is left of the job of a held run; it is Crashed, or Pending again."""
    served = Served(shared, asker)
    return run_as_json(served, served.confirm_ended(run_id))


@router.delete("/runs/{run_id}")
def delete_run(shared: SharedHere, asker: Deleting, run_id: str) -> Done:
    """Delete a run with all that is kept of it; one that runs is refused."""
    Served(shared, asker).delete(run_id)
    return Done(id=run_id, done="deleted")
