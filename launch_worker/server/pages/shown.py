"""Shows a page: what is around it (who I am, where I can go, how the system is), and what only its live parts need."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastapi import Request
from starlette.responses import Response

from launch_worker.errors import LaunchError
from launch_worker.model.states import RunState
from launch_worker.people.roles import Act, may, visible
from launch_worker.server.asker import Asker
from launch_worker.server.shared import Shared
from launch_worker.server.sight import Seen
from launch_worker.server.templating import page

#: Cookie with the theme that a person chose; without it the system's.
THEME = "launch_worker_theme"
THEMES = ("light", "dark")


class Link(NamedTuple):
    """An entry of the navigation."""

    path: str
    label: str
    #: Keys that lead there.
    key: str
    #: What one must be allowed to do to see it.
    act: Act


#: The pages in the bar, and those in the menu of the person.
BAR = (
    Link("/runs", "Runs", "g r", Act.SEE_RUNS),
    Link("/queues", "Queues", "g q", Act.SEE_SYSTEM),
    Link("/workers", "Workers", "g w", Act.SEE_SYSTEM),
    Link("/sweeps", "Sweeps", "g s", Act.SEE_RUNS),
    Link("/schedules", "Schedules", "g d", Act.SEE_RUNS),
    Link("/usage", "Usage", "g u", Act.SEE_RUNS),
    Link("/problems", "Problems", "g p", Act.SEE_SYSTEM),
)
MENU = (
    Link("/account", "Account and tokens", "g a", Act.SEE_SELF),
    Link("/people", "People", "g e", Act.SET_PEOPLE),
    Link("/channels", "Channels", "g n", Act.SET_CHANNELS),
    Link("/audit", "Audit", "g t", Act.SEE_AUDIT),
    Link("/celery/", "Celery", "g c", Act.SEE_CELERY),
    Link("/api", "API", "", Act.SEE_SELF),
)


class Now(NamedTuple):
    """The line at the top of every page."""

    running: int
    waiting: int
    #: GPUs that runs hold, and all of them.
    gpus_held: int
    gpus: int
    problems: int


def status_of(shared: Shared, asker: Asker) -> dict[str, Any]:
    """The object of `status --json` as the person sees it, up to a second old."""
    sight = visible(asker.person)
    return shared.kept.get(("status", sight), lambda: Seen(shared, asker.person).status(shared.connection.status()))


def now_of(shared: Shared, asker: Asker) -> Now | None:
    """How the system is; None while Redis or the archive is away."""
    if not may(asker.person, Act.SEE_SYSTEM):
        return None
    try:
        status = status_of(shared, asker)
    except LaunchError:
        return None
    devices = [device for worker in status["workers"] for device in worker.get("devices", ())]
    return Now(
        running=status["runs"].get(RunState.RUNNING.value, 0),
        waiting=status["runs"].get(RunState.PENDING.value, 0),
        gpus_held=sum(bool(device["runs"]) for device in devices),
        gpus=len(devices),
        problems=len(status["problems"]),
    )


def is_fragment(request: Request) -> bool:
    """Whether a part of an open page asks, which needs nothing of what is around."""
    return request.headers.get("hx-request") == "true" and "hx-history-restore-request" not in request.headers


def show(
    request: Request, shared: Shared, asker: Asker, template: str, /, *, code: int = 200, **values: Any
) -> Response:
    """The page of a template of `templates/`, which extends `layout`.

    Beside `values` a template has: `me` (the Person), `may(ACT, project=, owner=)`, `here` (path and query), `path`,
    `now` (Now, None for not known), `bar` and `menu` (Links), `theme`.
    """

    def can(act: str, *, project: str = "", owner: str = "") -> bool:
        return may(asker.person, Act[act], project=project, owner=owner)

    url = request.url
    text = page(
        template,
        layout="fragment.html" if is_fragment(request) else "layout.html",
        me=asker.person,
        may=can,
        here=url.path + (f"?{url.query}" if url.query else ""),
        path=url.path,
        now=now_of(shared, asker),
        bar=[link for link in BAR if _leads(asker, link)],
        menu=[link for link in MENU if _leads(asker, link) and (link.path != "/celery/" or shared.celery_page)],
        theme=theme_of(request),
        **values,
    )
    return Response(text.encode(), media_type="text/html", status_code=code)


def theme_of(request: Request) -> str:
    """The theme that the person chose, '' for the system's."""
    chosen = request.cookies.get(THEME, "")
    return chosen if chosen in THEMES else ""


def _leads(asker: Asker, link: Link) -> bool:
    """Whether a page has something for the person: what belongs to projects does for who has a role anywhere."""
    return asker.person.highest >= link.act.least if link.act is Act.SEE_RUNS else may(asker.person, link.act)
