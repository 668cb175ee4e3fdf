"""Shows channels of notices and rules to admins, and makes, changes, tries and deletes them by forms."""

from __future__ import annotations

from urllib.parse import quote

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from launch_worker.errors import LaunchError, NotFoundError
from launch_worker.notifications.channel import KINDS
from launch_worker.notifications.rule import CONDITIONS
from launch_worker.server.asker import Asker
from launch_worker.server.forms import Form, FormHere
from launch_worker.server.pages.shown import show
from launch_worker.server.problems import status_of
from launch_worker.server.routes import channels
from launch_worker.server.routes.channels import (
    Adding,
    AddingRule,
    Changing,
    Deleting,
    DeletingRule,
    Setting,
    Testing,
    channels_of,
    seen_channels,
)
from launch_worker.server.shared import Shared, SharedHere

router = APIRouter(include_in_schema=False)


@router.get("/channels")
def channels_page(request: Request, shared: SharedHere, asker: Setting) -> Response:
    """The channels, and the rules that tell them something."""
    return _all(request, shared, asker)


@router.get("/channels/{name}")
def channel_page(name: str, request: Request, shared: SharedHere, asker: Setting) -> Response:
    """One channel, to be changed."""
    return _one(request, shared, asker, name)


@router.post("/channels")
def add_channel(request: Request, form: FormHere, shared: SharedHere, asker: Adding) -> Response:
    """Make a channel; the page that answers shows a webhook's secret, this once."""
    wanted = channels.NewChannel(
        name=form.text("name"),
        kind=form.text("kind"),
        address=form.text("address"),
        output="output" in form,
        quiet=form.text("quiet") or None,
        projects=form.text("projects").split(),
    )
    try:
        made = channels.add_channel(wanted, shared, asker)
    except LaunchError as error:
        # The address is not in the page that answers: it must be given again.
        asker.fail(str(error))
        return _all(request, shared, asker, problem=str(error), code=status_of(error), given=form)
    if made.secret:
        return _one(request, shared, asker, made.name, secret=made.secret)
    return _to(made.name)


@router.post("/channels/{name}")
def set_channel(name: str, request: Request, form: FormHere, shared: SharedHere, asker: Changing) -> Response:
    """Change a channel as the form says; a field for an address that is empty changes none."""
    before = next((one for one in channels_of(shared, asker).shown() if one.name == name), None)
    wanted = form.text("projects").split()
    gone = [project for project in (before.projects if before else ()) if project not in _names(wanted)]
    change = channels.ChannelChange(
        address=form.text("address") or None,
        output="output" in form,
        quiet=form.text("quiet") or "none",
        projects=[*wanted, *(f"{project}:none" for project in gone)],
    )
    try:
        channels.set_channel(name, change, shared, asker)
    except NotFoundError:
        raise
    except LaunchError as error:
        asker.fail(str(error))
        return _one(request, shared, asker, name, problem=str(error), code=status_of(error))
    return _to(name)


@router.post("/channels/{name}/secret")
def make_secret(name: str, request: Request, shared: SharedHere, asker: Changing) -> Response:
    """Make a new secret for a webhook, and show it, this once."""
    made = channels.set_channel(name, channels.ChannelChange(new_secret=True), shared, asker)
    return _one(request, shared, asker, name, secret=made.secret or "")


@router.post("/channels/{name}/test")
def test_channel(name: str, request: Request, shared: SharedHere, asker: Testing) -> Response:
    """Send a test, and say how that ended."""
    try:
        channels.test_channel(name, shared, asker)
    except NotFoundError:
        raise
    except LaunchError as error:
        asker.fail(str(error))
        return _one(request, shared, asker, name, problem=str(error), code=status_of(error))
    return _one(request, shared, asker, name, done="A test was sent.")


@router.post("/channels/{name}/delete")
def delete_channel(name: str, shared: SharedHere, asker: Deleting) -> Response:
    """Delete a channel."""
    channels.delete_channel(name, shared, asker)
    return RedirectResponse("/channels", 303)


@router.post("/rules")
def add_rule(request: Request, form: FormHere, shared: SharedHere, asker: AddingRule) -> Response:
    """Make a rule."""
    wanted = channels.NewRule(
        name=form.text("rule"),
        when=form.text("when"),
        duration=form.text("for") or None,
        channel=form.text("channel"),
        queue=form.text("queue"),
        project=form.text("project"),
    )
    try:
        channels.add_rule(wanted, shared, asker)
    except LaunchError as error:
        asker.fail(str(error))
        return _all(request, shared, asker, problem=str(error), code=status_of(error), given=form)
    return RedirectResponse("/channels#rules", 303)


@router.post("/rules/{name}/delete")
def delete_rule(name: str, shared: SharedHere, asker: DeletingRule) -> Response:
    """Delete a rule."""
    channels.delete_rule(name, shared, asker)
    return RedirectResponse("/channels#rules", 303)


def _all(
    request: Request, shared: Shared, asker: Asker, *, problem: str = "", code: int = 200, given: Form | None = None
) -> Response:
    found = seen_channels(shared, asker)
    fields = ("name", "kind", "quiet", "projects", "rule", "when", "for", "channel", "queue", "project")
    return show(
        request,
        shared,
        asker,
        "channels",
        code=code,
        problem=problem,
        given={name: given.text(name) if given is not None else "" for name in fields},
        channels=[channel.as_json() for channel in found],
        rules=[rule.as_json() | {"says": rule.says()} for rule in channels_of(shared, asker).rules()],
        kinds=KINDS,
        conditions=CONDITIONS,
    )


def _one(
    request: Request,
    shared: Shared,
    asker: Asker,
    name: str,
    *,
    problem: str = "",
    done: str = "",
    secret: str = "",
    code: int = 200,
) -> Response:
    found = [channel.as_json() for channel in seen_channels(shared, asker) if channel.name == name]
    if not found:
        raise NotFoundError(f"there is no channel {name[:100]!r}")
    answer = show(
        request, shared, asker, "channel", code=code, channel=found[0], problem=problem, done=done, secret=secret
    )
    if secret:
        answer.headers["Cache-Control"] = "no-store"
    return answer


def _names(projects: list[str]) -> set[str]:
    return {project.partition(":")[0] for project in projects}


def _to(name: str) -> Response:
    return RedirectResponse(f"/channels/{quote(name, safe='')}", 303)
