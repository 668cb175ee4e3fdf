"""Shows users, their groups and projects to admins, and changes them by forms."""

from __future__ import annotations

import re
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from launch_worker.errors import InputError, NotFoundError
from launch_worker.people.registry import Registry
from launch_worker.people.roles import Act, Role
from launch_worker.server.asker import Asker, acting
from launch_worker.server.forms import Form, FormHere
from launch_worker.server.pages.shown import show
from launch_worker.server.routes import people
from launch_worker.server.routes.people import (
    AddingUser,
    ChangingGroup,
    ChangingUser,
    DeletingGroup,
    DeletingUser,
    EndingLogins,
    Setting,
    changing,
)
from launch_worker.server.shared import Shared, SharedHere

router = APIRouter(include_in_schema=False)
ChangingProject = Annotated[Asker, changing(Act.SET_PEOPLE, "changed", "project")]
DeletingProject = Annotated[Asker, changing(Act.SET_PEOPLE, "deleted", "project")]
Allowing = Annotated[Asker, acting(Act.SET_PEOPLE, what="set", kind="allowance", is_named_late=True)]

_ROLES = tuple(role.label for role in Role)


@router.get("/people")
def people_page(request: Request, shared: SharedHere, asker: Setting) -> Response:
    """Everybody, and what is given to them."""
    registry = _registry(shared, asker)
    return show(
        request,
        shared,
        asker,
        "people",
        users=[user.as_json() for user in registry.users()],
        groups=[group.as_json() for group in registry.groups()],
        projects=[project.as_json() for project in registry.projects()],
        allowances=people.seen_allowances(shared, asker.person),
        roles=_ROLES,
    )


@router.get("/people/users/{name}")
def user_page(name: str, request: Request, shared: SharedHere, asker: Setting) -> Response:
    """One user, with tokens and browsers."""
    registry = _registry(shared, asker)
    user = _one(registry.users(), name, "user")
    return show(
        request,
        shared,
        asker,
        "user",
        user=user,
        tokens=[token.as_json() for token in registry.tokens(name)],
        sessions=[session.as_json() for session in registry.sessions(name)],
        roles=_ROLES,
    )


@router.get("/people/groups/{name}")
def group_page(name: str, request: Request, shared: SharedHere, asker: Setting) -> Response:
    """One group of users."""
    group = _one(_registry(shared, asker).groups(), name, "group")
    return show(request, shared, asker, "user-group", group=group, roles=_ROLES)


@router.get("/people/projects/{name:path}")
def project_page(name: str, request: Request, shared: SharedHere, asker: Setting) -> Response:
    """One project: whether it is private, and who has which role in it."""
    project = _one(_registry(shared, asker).projects(), name, "project")
    return show(request, shared, asker, "project", project=project, roles=_ROLES)


@router.post("/people/users")
def add_user(form: FormHere, shared: SharedHere, asker: AddingUser) -> Response:
    """Add a user."""
    way = form.text("way")
    wanted = people.NewUser(
        name=form.text("name"),
        display=form.text("display"),
        role=form.text("role") or None,
        groups=_words(form.text("groups")),
        password=form.raw("password")[:1024] if way == "password" else None,
        invited=way == "invited",
    )
    return _to("users", people.add_user(wanted, shared, asker).name)


@router.post("/people/users/{name}")
def set_user(name: str, form: FormHere, shared: SharedHere, asker: ChangingUser) -> Response:
    """Change a user as the form says."""
    user = _one(_registry(shared, asker).users(), name, "user")
    wanted = set(_words(form.text("groups")))
    given: dict[str, Any] = {
        "display": form.text("display"),
        "role": form.text("role") or "none",
        "projects": _changes(user["projects"], form),
        "join": sorted(wanted - set(user["groups"])),
        "leave": sorted(set(user["groups"]) - wanted),
    }
    if password := form.raw("password"):
        given["password"] = password[:1024]
    people.set_user(name, people.UserChange(**given), shared, asker)
    return _to("users", name)


@router.post("/people/users/{name}/disable")
def disable_user(name: str, shared: SharedHere, asker: ChangingUser) -> Response:
    """Let nobody in by this user."""
    people.set_user(name, people.UserChange(disabled=True), shared, asker)
    return _to("users", name)


@router.post("/people/users/{name}/enable")
def enable_user(name: str, shared: SharedHere, asker: ChangingUser) -> Response:
    """Let the user in again."""
    people.set_user(name, people.UserChange(disabled=False), shared, asker)
    return _to("users", name)


@router.post("/people/users/{name}/logout")
def log_user_out(name: str, shared: SharedHere, asker: EndingLogins) -> Response:
    """End all sessions of a user."""
    people.log_user_out(name, shared, asker)
    return _to("users", name)


@router.post("/people/users/{name}/delete")
def delete_user(name: str, shared: SharedHere, asker: DeletingUser) -> Response:
    """Delete a user with tokens, sessions and roles."""
    people.delete_user(name, shared, asker)
    return RedirectResponse("/people", 303)


@router.post("/people/groups")
def add_group(form: FormHere, shared: SharedHere, asker: ChangingGroup) -> Response:
    """Make a group of users."""
    return _to("groups", people.set_user_group(form.text("name"), people.GroupChange(), shared, asker).name)


@router.post("/people/groups/{name}")
def set_group(name: str, form: FormHere, shared: SharedHere, asker: ChangingGroup) -> Response:
    """Change a group as the form says."""
    group = _one(_registry(shared, asker).groups(), name, "group")
    wanted = set(_words(form.text("members")))
    change = people.GroupChange(
        display=form.text("display"),
        role=form.text("role") or "none",
        projects=_changes(group["projects"], form),
        add=sorted(wanted - set(group["members"])),
        remove=sorted(set(group["members"]) - wanted),
    )
    people.set_user_group(name, change, shared, asker)
    return _to("groups", name)


@router.post("/people/groups/{name}/delete")
def delete_group(name: str, shared: SharedHere, asker: DeletingGroup) -> Response:
    """Delete a group with its roles."""
    people.delete_user_group(name, shared, asker)
    return RedirectResponse("/people", 303)


@router.post("/people/projects")
def add_project(form: FormHere, shared: SharedHere, asker: ChangingProject) -> Response:
    """Make a project private."""
    made = people.set_project(form.text("name"), people.ProjectChange(private=True), shared, asker)
    return _to("projects", made.name)


@router.post("/people/project-settings/{name:path}")
def set_project(name: str, form: FormHere, shared: SharedHere, asker: ChangingProject) -> Response:
    """Change a project as the form says."""
    project = _one(_registry(shared, asker).projects(), name, "project")
    change = people.ProjectChange(
        private="private" in form,
        users=_changes(project["users"], form, "users"),
        groups=_changes(project["groups"], form, "groups"),
    )
    people.set_project(name, change, shared, asker)
    return _to("projects", name)


@router.post("/people/forget-project/{name:path}")
def forget_project(name: str, shared: SharedHere, asker: DeletingProject) -> Response:
    """Forget what is set of a project."""
    people.delete_project(name, shared, asker)
    return RedirectResponse("/people", 303)


@router.post("/people/allowances")
def allow(form: FormHere, shared: SharedHere, asker: Allowing) -> Response:
    """Set what a user, group or project may have at once; without any number nothing is limited."""
    name = form.text("name")
    numbers = {limit: form.number(limit, most_digits=7) for limit in ("waiting", "running", "gpus")}
    asker.begin(name)
    shared.transport(asker.person.name).allow(name, **numbers)
    return RedirectResponse("/people#allowances", 303)


def _registry(shared: Shared, asker: Asker) -> Registry:
    return Registry(shared.database, actor=asker.person.name, address=asker.address)


def _one(found: list[Any], name: str, what: str) -> dict[str, Any]:
    one = next((one for one in found if one.name == name), None)
    if one is None:
        raise NotFoundError(f"there is no {what} {name[:100]!r}")
    shown: dict[str, Any] = one.as_json()
    return shown


def _to(what: str, name: str) -> Response:
    return RedirectResponse(f"/people/{what}/{quote(name, safe='/' if what == 'projects' else '')}", 303)


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[\s,]+", text) if word]


def _changes(before: dict[str, str], form: Form, field: str = "projects") -> dict[str, str]:
    """The roles of a field with lines `NAME ROLE`; what is not there any more is taken away. Raises InputError."""
    wanted = {}
    for line in form.text(field).splitlines():
        if not line.strip():
            continue
        name, _, role = line.strip().rpartition(" ")
        if not name:
            raise InputError(f"write a role as NAME ROLE, one a line, not {line.strip()[:60]!r}")
        wanted[name.strip()] = role
    return dict.fromkeys(before, "none") | wanted
