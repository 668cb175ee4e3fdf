"""Serves recurring submissions: seen with their project, kept and deleted by their owners."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from launch_worker.errors import InputError
from launch_worker.ids import unique_run_id
from launch_worker.model.masking import masked_spec
from launch_worker.model.schedule import Schedule, check_recurring, unknown_schedule
from launch_worker.people.roles import Act, Person, visible
from launch_worker.server.asker import Asker, acting, allowed
from launch_worker.server.caching import as_json
from launch_worker.server.served import Served
from launch_worker.server.shared import Shared, SharedHere
from launch_worker.server.sight import Seen
from launch_worker.server.told import project_of_schedule
from launch_worker.untrusted.text import read_map

router = APIRouter(tags=["schedules"])


class ScheduleWanted(BaseModel):
    """A run that is to be submitted again and again."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field("", description="The name in the path.")
    cron: str = Field(description="MINUTE HOUR DAY MONTH WEEKDAY, or @daily.", examples=["0 3 * * *"])
    timezone: str = Field("UTC", examples=["Europe/Berlin"])
    missed: Literal["skip", "once"] = "skip"
    overlap: Literal["allow", "skip", "queue-one"] = "allow"
    made_at: int = Field(0, description="Left out: the server says it.")
    given: dict[str, Any] = Field(
        description="The run: options of launch-submit by name.", examples=[{"command": ["python", "train.py"]}]
    )


class ScheduleShown(BaseModel):
    """A recurring submission."""

    name: str
    next_us: int = Field(description="Its next time, microseconds since 1970.")
    #: Its own content, or what is wrong with it.
    schedule: dict[str, Any] = Field(description="As it was wanted; environment values that look secret are masked.")
    problem: str | None = Field(description="Why it cannot be read.")


class Schedules(BaseModel):
    """All recurring submissions of projects that are seen, the next one first."""

    schedules: list[ScheduleShown]


@router.get("/schedules", response_model=Schedules)
def list_schedules(shared: SharedHere, asker: Annotated[Asker, allowed(Act.SEE_RUNS)]) -> Response:
    """Recurring submissions, the next one first."""
    return as_json({"schedules": shown_schedules(shared, asker)})


@router.get("/schedules/{name}", response_model=ScheduleShown)
def show_schedule(name: str, shared: SharedHere, asker: Annotated[Asker, allowed(Act.SEE_RUNS)]) -> Response:
    """One recurring submission."""
    text, next_us = kept_schedule(shared, asker, name)
    return as_json(_shown(name, text, next_us))


@router.put("/schedules/{name}")
def keep_schedule(
    name: str,
    wanted: ScheduleWanted,
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.SUBMIT, what="create", kind="schedule")],
) -> ScheduleShown:
    """Keep a recurring submission; refused where one of that name is there."""
    transport = Served(shared, asker)
    project = str(wanted.given.get("project") or "")
    asker.check(Act.SUBMIT, project=project)
    _check_name(asker.person, name, project)
    check_recurring(wanted.given)
    now = transport.now_us()
    whose = {"user": asker.person.name, "user_groups": sorted(asker.person.groups)}
    kept = wanted.model_dump() | {"name": name, "made_at": now, **whose}
    schedule = Schedule.from_json(json.dumps(kept))
    transport.check_waits(transport.complete(schedule.given))
    next_us = schedule.next_after(now)
    return ScheduleShown(**_shown(name, *transport.keep_schedule(name, schedule.to_json(), next_us)))


@router.post("/schedules/{name}/pause")
def pause_schedule(
    name: str,
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.SET_SCHEDULES, what="pause", kind="schedule")],
) -> ScheduleShown:
    """Let its times come and go without a run."""
    return set_paused(shared, asker, name, paused=True)


@router.post("/schedules/{name}/resume")
def resume_schedule(
    name: str,
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.SET_SCHEDULES, what="resume", kind="schedule")],
) -> ScheduleShown:
    """Have its times make runs again, from the next one on."""
    return set_paused(shared, asker, name, paused=False)


@router.delete("/schedules/{name}", status_code=204)
def delete_schedule(
    name: str,
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.SET_SCHEDULES, what="delete", kind="schedule")],
) -> None:
    """Take a recurring submission away; runs that it submitted stay."""
    remove_schedule(shared, asker, name)


def shown_schedules(shared: Shared, asker: Asker) -> list[dict[str, Any]]:
    """The schedules that a person sees, the next one first."""
    seen = Seen(shared, asker.person)
    found = [_shown(*kept) for kept in shared.connection.schedules()]
    return [one for one in found if seen.sees(project_of_schedule(one["schedule"]))]


def remove_schedule(shared: Shared, asker: Asker, name: str) -> None:
    """Take a schedule away. Raises NotFoundError, NotAllowedError."""
    check = _check_own(shared, asker, name)
    if not shared.transport(asker.person.name).delete_schedule(name, check=check):
        raise unknown_schedule(name)


def set_paused(shared: Shared, asker: Asker, name: str, *, paused: bool) -> ScheduleShown:
    """Pause a schedule, or let it go on. Raises NotFoundError, NotAllowedError, InputError for a damaged one."""
    check = _check_own(shared, asker, name)
    if not shared.transport(asker.person.name).pause_schedule(name, paused=paused, check=check):
        raise unknown_schedule(name)
    return ScheduleShown(**_shown(name, *kept_schedule(shared, asker, name)))


def _check_own(shared: Shared, asker: Asker, name: str) -> Callable[[str], None]:
    """A function that refuses the text of a schedule which the person may not change, or does not see."""
    seen = Seen(shared, asker.person)

    def check(text: str) -> None:
        kept = read_map(text)
        project = project_of_schedule(kept)
        if not seen.sees(project):
            raise unknown_schedule(name)
        asker.check(Act.SET_SCHEDULES, project=project, owner=str(kept.get("user") or ""))

    return check


def _check_name(person: Person, name: str, project: str) -> None:
    """Raises InputError for a name that could be taken by a schedule which the person may not see."""
    ending = f".{unique_run_id('schedule', user=person.name, project=project)[:10]}"
    if not visible(person).is_everything and not name.endswith(ending):
        raise InputError(
            f"{person.name} does not see all projects, and so gives schedules names that only they can have; "
            f"name it {name[:60] + ending!r}"
        )


def kept_schedule(shared: Shared, asker: Asker, name: str) -> tuple[str, int]:
    """A schedule that is there and seen. Raises NotFoundError."""
    found = shared.connection.schedule(name)
    if found is None or not Seen(shared, asker.person).sees(project_of_schedule(read_map(found[0]))):
        raise unknown_schedule(name)
    return found


def _shown(name: str, text: str, next_us: int) -> dict[str, Any]:
    schedule, problem = read_map(text), None
    # Who is in which group is admins' matter.
    schedule.pop("user_groups", None)
    try:
        Schedule.from_json(text)
    except InputError as error:
        problem = str(error)
    if isinstance(schedule.get("given"), dict):
        schedule["given"] = masked_spec(json.dumps(schedule["given"]))
    return {"name": name, "next_us": next_us, "schedule": schedule, "problem": problem}
