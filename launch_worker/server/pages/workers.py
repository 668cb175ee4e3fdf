"""Shows the workers: what they have, who holds it, which are gone; to admins buttons to drain, upgrade, resume."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from launch_worker.api.filters import NEWEST_FIRST, parse_filter, parse_order
from launch_worker.api.shown import run_as_json
from launch_worker.errors import NotFoundError
from launch_worker.model.worker import WorkerOrder, trouble_of
from launch_worker.people.roles import Act
from launch_worker.server.asker import Asker, acting, allowed
from launch_worker.server.pages.shown import show, status_of
from launch_worker.server.served import Served
from launch_worker.server.shared import Shared, SharedHere
from launch_worker.server.sight import Seen

router = APIRouter(include_in_schema=False)
Seeing = Annotated[Asker, allowed(Act.SEE_SYSTEM)]

#: Runs of a worker that are shown.
_MOST_RUNS = 50


@router.get("/workers")
def workers_page(request: Request, shared: SharedHere, asker: Seeing) -> Response:
    """The workers, and those that are gone since an hour."""
    workers = _workers(shared, asker)
    gone = (
        shared.kept.get(("gone",), shared.connection.gone_workers, most_s=5.0)
        if Seen(shared, asker.person).is_all
        else []
    )
    names = {worker["worker"] for worker in workers}
    return show(
        request,
        shared,
        asker,
        "workers",
        workers=workers,
        gone=[one for one in gone if one["worker"] not in names],
    )


@router.get("/workers/{name}")
def worker_page(name: str, request: Request, shared: SharedHere, asker: Seeing) -> Response:
    """One worker with its devices and its runs."""
    found = [worker for worker in _workers(shared, asker) if worker["worker"] == name]
    if not found:
        raise NotFoundError(f"there is no worker {name[:100]!r} now; list them with: launch-worker workers")
    served = Served(shared, asker)
    wanted = parse_filter({"$and": [{"state": "Running"}, {"worker": name}]})
    listing = served.listing(wanted, parse_order(NEWEST_FIRST), per_page=_MOST_RUNS)
    runs = [run_as_json(served, record) for record, _ in zip(listing.records(), range(_MOST_RUNS), strict=False)]
    return show(request, shared, asker, "worker", lives=found, name=name, runs=runs)


@router.post("/workers/{name}/drain")
def drain_worker(
    name: str, shared: SharedHere, asker: Annotated[Asker, acting(Act.SET_WORKERS, what="drain", kind="worker")]
) -> Response:
    """Let it end its jobs, take nothing new, and leave."""
    return _order(shared, asker, name, "drain")


@router.post("/workers/{name}/upgrade")
def upgrade_worker(
    name: str, shared: SharedHere, asker: Annotated[Asker, acting(Act.SET_WORKERS, what="upgrade", kind="worker")]
) -> Response:
    """Let it leave at once, without ending its jobs."""
    return _order(shared, asker, name, "upgrade")


@router.post("/workers/{name}/resume")
def resume_worker(
    name: str, shared: SharedHere, asker: Annotated[Asker, acting(Act.SET_WORKERS, what="resume", kind="worker")]
) -> Response:
    """End its quarantine."""
    return _order(shared, asker, name, "resume")


def _order(shared: Shared, asker: Asker, name: str, word: WorkerOrder) -> Response:
    shared.transport(asker.person.name).order(name, word)
    return RedirectResponse(f"/workers/{quote(name, safe='@')}", 303)


def _workers(shared: Shared, asker: Asker) -> list[dict[str, Any]]:
    """The live workers. One of another release may not say all that is shown."""
    unknown = {"total": None, "free": None}
    usual: dict[str, Any] = {"devices": [], "cpus": unknown, "memory": unknown, "pid": None, "problem": ""}
    return [usual | worker | {"problem": trouble_of(worker)} for worker in status_of(shared, asker)["workers"]]
