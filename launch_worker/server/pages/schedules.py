"""Shows recurring submissions, and lets who may run one now, pause or delete it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from launch_worker.model.schedule import Schedule
from launch_worker.model.units import isoformat
from launch_worker.people.roles import Act
from launch_worker.server.asker import Asker, acting, allowed
from launch_worker.server.pages.shown import show
from launch_worker.server.routes.schedules import kept_schedule, remove_schedule, set_paused, shown_schedules
from launch_worker.server.served import Served
from launch_worker.server.shared import SharedHere

router = APIRouter(include_in_schema=False)


@router.get("/schedules")
def schedules_page(request: Request, shared: SharedHere, asker: Annotated[Asker, allowed(Act.SEE_RUNS)]) -> Response:
    """All schedules of projects that are seen, the next one first."""
    rows = [_row(shown) for shown in shown_schedules(shared, asker)]
    return show(request, shared, asker, "schedules", rows=rows)


@router.post("/schedules/{name}/run")
def run_schedule(
    name: str, shared: SharedHere, asker: Annotated[Asker, acting(Act.SUBMIT, what="submit", kind="schedule")]
) -> Response:
    """Submit its run now, in the name of who asks, beside its times."""
    text, _ = kept_schedule(shared, asker, name)
    sent = Served(shared, asker).send(Schedule.from_json(text).given)
    return RedirectResponse(f"/runs/{sent.id}", 303)


@router.post("/schedules/{name}/pause")
def pause_schedule(
    name: str,
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.SET_SCHEDULES, what="pause", kind="schedule")],
) -> Response:
    """Let its times come and go without a run."""
    set_paused(shared, asker, name, paused=True)
    return RedirectResponse("/schedules", 303)


@router.post("/schedules/{name}/resume")
def resume_schedule(
    name: str,
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.SET_SCHEDULES, what="resume", kind="schedule")],
) -> Response:
    """Have its times make runs again."""
    set_paused(shared, asker, name, paused=False)
    return RedirectResponse("/schedules", 303)


@router.post("/schedules/{name}/delete")
def delete_schedule(
    name: str,
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.SET_SCHEDULES, what="delete", kind="schedule")],
) -> Response:
    """Take it away; runs that it submitted stay."""
    remove_schedule(shared, asker, name)
    return RedirectResponse("/schedules", 303)


def _row(shown: dict[str, Any]) -> dict[str, Any]:
    schedule = shown["schedule"]
    given = schedule.get("given")
    given = given if isinstance(given, dict) else {}
    command = given.get("command")
    return {
        "name": shown["name"],
        "next_at": isoformat(shown["next_us"]),
        "cron": str(schedule.get("cron", "")),
        "timezone": str(schedule.get("timezone", "")),
        "missed": str(schedule.get("missed", "")),
        "overlap": str(schedule.get("overlap", "")),
        "user": str(schedule.get("user") or ""),
        "queue": str(given.get("queue") or "default"),
        "project": str(given.get("project") or ""),
        "command": " ".join(map(str, command)) if isinstance(command, list) else str(command or given.get("image", "")),
        "paused": schedule.get("paused") is True,
        "problem": shown["problem"] or "",
    }
