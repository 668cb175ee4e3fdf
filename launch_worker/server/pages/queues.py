"""Shows queues and pools: what waits in them and why, and to admins their settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from launch_worker.api.filters import parse_filter
from launch_worker.api.shown import run_as_json
from launch_worker.api.transport import Kind
from launch_worker.errors import InputError, LaunchError
from launch_worker.people.roles import Act, visible
from launch_worker.server.asker import Asker, acting, allowed
from launch_worker.server.forms import Form, FormHere
from launch_worker.server.pages.shown import show, status_of
from launch_worker.server.served import Served
from launch_worker.server.shared import Shared, SharedHere
from launch_worker.server.sight import Seen
from launch_worker.untrusted.text import read_json

router = APIRouter(include_in_schema=False)
Seeing = Annotated[Asker, allowed(Act.SEE_SYSTEM)]

#: Runs of a queue's line that are shown.
_LINE = 50
#: Queues of which the first run in line is looked up for its age; of more only those that people open.
_MOST_OLDEST = 100
#: Settings by how a form writes them.
_NUMBERS = ("limit", "rank")
_TEXTS = ("pool", "description", "resource", "sandbox", "run_as")
_OBJECTS = (
    *("defaults", "admits", "container", "variables", "macro_env", "allow_env", "allow_uris"),
    *("writable", "accounts", "limits"),
)
_OF_POOLS = frozenset(("limit", "description", "defaults", "admits"))


@router.get("/queues")
def queues_page(request: Request, shared: SharedHere, asker: Seeing) -> Response:
    """All queues and pools."""
    status = status_of(shared, asker)
    return show(
        request, shared, asker, "queues", queues=status["queues"], pools=status["pools"], oldest=_oldest(shared, asker)
    )


@router.get("/queues/{name}")
def queue_page(name: str, request: Request, shared: SharedHere, asker: Seeing) -> Response:
    """One queue with its line."""
    return _queue(request, shared, asker, name)


@router.get("/pools/{name}")
def pool_page(name: str, request: Request, shared: SharedHere, asker: Seeing) -> Response:
    """One pool with its queues."""
    return _pool(request, shared, asker, name)


def _queue(request: Request, shared: Shared, asker: Asker, name: str, problem: LaunchError | None = None) -> Response:
    [queue] = Seen(shared, asker.person).queues([shared.connection.queue(name).as_json()])
    served = Served(shared, asker)
    line = [
        (run_as_json(served, record), place)
        for record, place in served.in_line(parse_filter({}), queue=name, limit=_LINE)
    ]
    known = next((one for one in status_of(shared, asker)["queues"] if one["name"] == name), None)
    why = "" if queue["workers"] or not queue["waiting"] else served.why_waiting(name)
    return show(
        request,
        shared,
        asker,
        "queue",
        code=_code(problem),
        queue=queue,
        state=known["state"] if known else "Ready",
        line=line,
        why=why,
        problem=str(problem or ""),
        objects=_objects(queue, _OBJECTS),
    )


def _pool(request: Request, shared: Shared, asker: Asker, name: str, problem: LaunchError | None = None) -> Response:
    [pool] = Seen(shared, asker.person).pools([shared.connection.pool(name).as_json()])
    queues = [one for one in status_of(shared, asker)["queues"] if one["pool"] == name]
    return show(
        request,
        shared,
        asker,
        "pool",
        code=_code(problem),
        pool=pool,
        queues=queues,
        problem=str(problem or ""),
        objects=_objects(pool, ("defaults", "admits")),
    )


@router.post("/queues")
def create_queue(
    form: FormHere,
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.SET_QUEUES, what="create", kind="queue", is_named_late=True)],
) -> Response:
    """Make a queue."""
    return _create("queue", form, shared, asker)


@router.post("/pools")
def create_pool(
    form: FormHere,
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.SET_POOLS, what="create", kind="pool", is_named_late=True)],
) -> Response:
    """Make a pool."""
    return _create("pool", form, shared, asker)


@router.post("/queues/{name}/pause")
def pause_queue(
    name: str, shared: SharedHere, asker: Annotated[Asker, acting(Act.SET_QUEUES, what="pause", kind="queue")]
) -> Response:
    """Let nothing of the queue start any more."""
    return _pause("queue", name, shared, asker, paused=True)


@router.post("/queues/{name}/resume")
def resume_queue(
    name: str, shared: SharedHere, asker: Annotated[Asker, acting(Act.SET_QUEUES, what="resume", kind="queue")]
) -> Response:
    """Let it go on."""
    return _pause("queue", name, shared, asker, paused=False)


@router.post("/pools/{name}/pause")
def pause_pool(
    name: str, shared: SharedHere, asker: Annotated[Asker, acting(Act.SET_POOLS, what="pause", kind="pool")]
) -> Response:
    """Let nothing of the pool's queues start any more."""
    return _pause("pool", name, shared, asker, paused=True)


@router.post("/pools/{name}/resume")
def resume_pool(
    name: str, shared: SharedHere, asker: Annotated[Asker, acting(Act.SET_POOLS, what="resume", kind="pool")]
) -> Response:
    """Let it go on."""
    return _pause("pool", name, shared, asker, paused=False)


@router.post("/queues/{name}")
def set_queue(
    name: str,
    request: Request,
    form: FormHere,
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.SET_QUEUES, what="set", kind="queue")],
) -> Response:
    """Change its settings, or show what was wrong with them."""
    before = shared.connection.queue(name).as_json()
    try:
        shared.transport(asker.person.name).configure("queue", name, _settings(form, before, "queue"), create=False)
    except InputError as error:
        asker.fail(str(error))
        return _queue(request, shared, asker, name, error)
    return _to("queue", name)


@router.post("/pools/{name}")
def set_pool(
    name: str,
    request: Request,
    form: FormHere,
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.SET_POOLS, what="set", kind="pool")],
) -> Response:
    """Change its settings, or show what was wrong with them."""
    before = shared.connection.pool(name).as_json()
    try:
        shared.transport(asker.person.name).configure("pool", name, _settings(form, before, "pool"), create=False)
    except InputError as error:
        asker.fail(str(error))
        return _pool(request, shared, asker, name, error)
    return _to("pool", name)


@router.post("/queues/{name}/delete")
def delete_queue(
    name: str, shared: SharedHere, asker: Annotated[Asker, acting(Act.SET_QUEUES, what="delete", kind="queue")]
) -> Response:
    """Take it and its settings away."""
    shared.transport(asker.person.name).drop("queue", name)
    return RedirectResponse("/queues", 303)


@router.post("/pools/{name}/delete")
def delete_pool(
    name: str, shared: SharedHere, asker: Annotated[Asker, acting(Act.SET_POOLS, what="delete", kind="pool")]
) -> Response:
    """Take it away."""
    shared.transport(asker.person.name).drop("pool", name)
    return RedirectResponse("/queues", 303)


def _create(kind: Kind, form: Form, shared: Shared, asker: Asker) -> Response:
    name = form.text("name")
    asker.begin(name)
    shared.transport(asker.person.name).configure(kind, name, {}, create=True)
    return _to(kind, name)


def _pause(kind: Kind, name: str, shared: Shared, asker: Asker, *, paused: bool) -> Response:
    shared.transport(asker.person.name).pause(kind, name, paused=paused)
    return _to(kind, name)


def _to(kind: Kind, name: str) -> Response:
    return RedirectResponse(f"/{kind}s/{quote(name, safe='')}", 303)


def _code(problem: LaunchError | None) -> int:
    return 200 if problem is None else 422


def _settings(form: Form, before: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    """The settings that the form changes: what is empty in it is taken away. Raises InputError."""
    found: dict[str, Any] = {}
    for name in (*_NUMBERS, *_TEXTS, *_OBJECTS):
        if name not in form or (kind == "pool" and name not in _OF_POOLS):
            continue
        text, was = form.text(name), before[name]
        if name in _NUMBERS:
            found[name] = form.number(name)
        elif name in _TEXTS:
            found[name] = text or None
        elif name in ("defaults", "container", "admits", "accounts", "limits"):
            # These change one by one: what is not there any more is taken away.
            found[name] = dict.fromkeys(was, None) | _object(name, text)
        else:
            found[name] = _json(name, text) if text else None
    return {
        name: value
        for name, value in found.items()
        if value != before[name] and not (_is_nothing(value) and _is_nothing(before[name]))
    }


def _is_nothing(value: Any) -> bool:
    # 0 is a limit.
    return value is None or value in ("", {}, [])


def _object(name: str, text: str) -> dict[str, Any]:
    found = _json(name, text) if text else {}
    if not isinstance(found, dict):
        raise InputError(f"{name} must be a JSON object")
    return found


def _json(name: str, text: str) -> Any:
    try:
        return read_json(text)
    except ValueError as error:
        raise InputError(f"{name} is not JSON: {error}") from None


def _objects(shown: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, str]:
    """The settings that are JSON, as a form shows them; '' for those that are not set."""
    return {name: json.dumps(shown[name], indent=1, ensure_ascii=False) if shown.get(name) else "" for name in names}


def _oldest(shared: Shared, asker: Asker) -> dict[str, str]:
    """The time from which on the first run in line has waited, by queue."""

    def make() -> dict[str, str]:
        served, found = Served(shared, asker), {}
        waiting = [queue["name"] for queue in status_of(shared, asker)["queues"] if queue["waiting"]]
        for name in waiting[:_MOST_OLDEST]:
            for record, _ in served.in_line(parse_filter({}), queue=name, limit=1):
                found[name] = record.as_json()["created_at"]
        return found

    return shared.kept.get(("oldest", visible(asker.person)), make, most_s=2.0)
