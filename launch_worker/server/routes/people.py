"""Serves users, groups, projects, tokens, sessions and allowances: admins set them, and everybody their own logins."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from launch_worker.errors import InputError, NotAllowedError, NotFoundError
from launch_worker.model.units import parse_duration
from launch_worker.people.directory import SESSION_S
from launch_worker.people.registry import Registry
from launch_worker.people.roles import Act, Person, Role, may, visible
from launch_worker.server.asker import Asker, acting, allowed, set_cookie
from launch_worker.server.caching import as_json
from launch_worker.server.shared import Shared, SharedHere

router = APIRouter(tags=["people"])


def changing(act: Act, what: str, kind: str) -> Any:
    """What a route declares that changes people: the registry audits what is done, and this only what is refused."""
    return acting(act, what=what, kind=kind, is_named_late=True)


Setting = Annotated[Asker, allowed(Act.SET_PEOPLE)]
AddingUser = Annotated[Asker, changing(Act.SET_PEOPLE, "created", "user")]
ChangingUser = Annotated[Asker, changing(Act.SET_PEOPLE, "changed", "user")]
DeletingUser = Annotated[Asker, changing(Act.SET_PEOPLE, "deleted", "user")]
EndingLogins = Annotated[Asker, changing(Act.SET_PEOPLE, "logged out", "user")]
ChangingGroup = Annotated[Asker, changing(Act.SET_PEOPLE, "changed", "group")]
DeletingGroup = Annotated[Asker, changing(Act.SET_PEOPLE, "deleted", "group")]
ChangingProject = Annotated[Asker, changing(Act.SET_PROJECT, "changed", "project")]
DeletingProject = Annotated[Asker, changing(Act.SET_PROJECT, "deleted", "project")]
Own = Annotated[Asker, allowed(Act.OWN_TOKENS)]
MakingToken = Annotated[Asker, changing(Act.OWN_TOKENS, "created", "token")]
RevokingToken = Annotated[Asker, changing(Act.OWN_TOKENS, "revoked", "token")]
EndingSession = Annotated[Asker, changing(Act.OWN_TOKENS, "logged out", "session")]

_ROLE = Field(default=None, description="none (takes it away), viewer, member, operator or admin.", examples=["member"])
_PROJECTS: Any = Field(
    default={}, description="Roles in projects; none takes one away.", examples=[{"lab/x": "operator"}]
)


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RolesGiven(_Given):
    """Roles to be given. What is not there stays."""

    role: str | None = _ROLE
    projects: dict[str, str] = _PROJECTS

    def roles(self) -> dict[str, Role]:
        given = {} if self.role is None else {"": Role.parse(self.role)}
        return given | _roles(self.projects)


class NewUser(RolesGiven):
    """A user to be added. Without a password and an invitation it is a service account, with tokens only."""

    name: str = Field(examples=["ada"])
    display: str = Field(default="", examples=["Ada Lovelace"])
    password: str | None = Field(default=None, max_length=1024)
    invited: bool = Field(default=False, description="The first login by OIDC with this name is theirs.")
    groups: list[str] = Field(default=[], examples=[["ml"]])


class UserChange(RolesGiven):
    """Changes of a user. What is not there stays."""

    display: str | None = None
    password: str | None = Field(
        default=None, max_length=1024, description="A new one; null takes it away. Ends the sessions."
    )
    invited: bool = False
    disabled: bool | None = None
    join: list[str] = Field(default=[], description="Groups into which the user is put.")
    leave: list[str] = Field(default=[], description="Groups out of which the user is taken.")


class UserShown(BaseModel):
    """A user."""

    name: str = Field(examples=["ada"])
    display: str | None
    ways: list[str] = Field(description="Ways in: password, oidc, invited.", examples=[["password"]])
    role: str | None = Field(description="System-wide role that was given to the user, not to a group.")
    projects: dict[str, str]
    groups: list[str]
    source: str | None = Field(description="file or login, where another place than the commands manages the user.")
    created_at: str
    login_at: str | None
    disabled_at: str | None


class Users(BaseModel):
    """All users."""

    users: list[UserShown]


class GroupChange(RolesGiven):
    """Changes of a group; the group is made where there is none."""

    display: str | None = None
    add: list[str] = Field(default=[], description="Users who are put into it.")
    remove: list[str] = Field(default=[], description="Users who are taken out of it.")


class GroupShown(BaseModel):
    """A group of users."""

    name: str = Field(examples=["ml"])
    display: str | None
    role: str | None
    projects: dict[str, str]
    members: list[str]


class Groups(BaseModel):
    """All groups."""

    groups: list[GroupShown]


class ProjectChange(_Given):
    """Changes of a project. What is not there stays."""

    private: bool | None = None
    users: dict[str, str] = Field(
        default={}, description="Roles of users; none takes one away.", examples=[{"ada": "admin"}]
    )
    groups: dict[str, str] = Field(default={}, description="Roles of groups.", examples=[{"ml": "member"}])


class ProjectShown(BaseModel):
    """A project of which something is set."""

    name: str = Field(examples=["lab/secret"])
    private: bool
    users: dict[str, str]
    groups: dict[str, str]


class Projects(BaseModel):
    """The projects of which something is set, and in which who asks is an admin."""

    projects: list[ProjectShown]


class NewToken(_Given):
    """A token to be made."""

    name: str = Field(examples=["laptop"])
    user: str | None = Field(default=None, description="Whose token it is; for admins. Without it, of who asks.")
    role: str = Field(default="admin", description="The most that it may do, and never more than its user.")
    expires: str = Field(default="90d", description="How long it lasts, or never.", examples=["365d"])


class TokenShown(BaseModel):
    """A token, of which only a hash is kept."""

    id: str = Field(examples=["3f2a9c04d1e7"])
    user: str
    name: str
    role: str
    created_at: str
    created_by: str
    expires_at: str | None
    used_at: str | None
    used_from: str | None


class TokenMade(TokenShown):
    """A token, and its text, which is shown this once."""

    token: str


class Tokens(BaseModel):
    """Tokens, those of a user together."""

    tokens: list[TokenShown]


class NewPassword(_Given):
    """The password of who asks, and the one that it becomes."""

    old: str = Field(max_length=1024, examples=["correct horse battery"])
    new: str = Field(max_length=1024, description="10 characters or more.", examples=["staple of a horse"])


class SessionShown(BaseModel):
    """A login that a browser holds."""

    id: str
    user: str
    how: str = Field(description="password, oidc or link.")
    created_at: str
    expires_at: str
    used_at: str | None
    address: str | None
    agent: str | None


class Sessions(BaseModel):
    """Sessions, those of a user together."""

    sessions: list[SessionShown]


class SessionsEnded(BaseModel):
    """How many sessions were ended."""

    ended: int


class Limits(_Given):
    """What the runs of an allowance may have at once; null: no such limit."""

    waiting: int | None = Field(default=None, ge=0, le=1_000_000)
    running: int | None = Field(default=None, ge=0, le=1_000_000, examples=[20])
    gpus: int | None = Field(default=None, ge=0, le=1_000_000, examples=[8])


class AllowanceShown(BaseModel):
    """What a user, a group or a project may have at once, and has now."""

    name: str = Field(examples=["user:ada"])
    most_waiting: int | None
    most_running: int | None
    most_gpus: int | None
    waiting: int
    running: int
    gpus: int


class Allowances(BaseModel):
    """Allowances, by name."""

    allowances: list[AllowanceShown]


@router.get("/users", response_model=Users)
def list_users(shared: SharedHere, asker: Setting) -> Response:
    """Every user, with the roles that were given to them."""
    return as_json({"users": [user.as_json() for user in _registry(shared, asker).users()]})


@router.post("/users", status_code=201)
def add_user(user: NewUser, shared: SharedHere, asker: AddingUser) -> UserShown:
    """Add a user; refused where there is one of that name."""
    asker.about(user.name)
    registry = _registry(shared, asker)
    name = registry.add_user(
        user.name,
        display=user.display,
        password=user.password,
        is_invited=user.invited,
        given=user.roles(),
        in_groups=user.groups,
    )
    return _user(registry, name)


@router.patch("/users/{name}")
def set_user(name: str, change: UserChange, shared: SharedHere, asker: ChangingUser) -> UserShown:
    """Change a user: roles, groups, ways in."""
    registry = _registry(shared, asker)
    registry.set_user(
        name,
        display=change.display,
        password=change.password,
        has_no_password="password" in change.model_fields_set and change.password is None,
        is_invited=change.invited,
        is_disabled=change.disabled,
        given=change.roles(),
        joins=change.join,
        leaves=change.leave,
    )
    return _user(registry, name)


@router.delete("/users/{name}", status_code=204, responses={409: {"description": "It is the last admin."}})
def delete_user(name: str, shared: SharedHere, asker: DeletingUser) -> None:
    """Delete a user with tokens, sessions and roles; their runs stay."""
    _registry(shared, asker).delete_user(name)


@router.post("/users/{name}/logout")
def log_user_out(name: str, shared: SharedHere, asker: EndingLogins) -> SessionsEnded:
    """End all sessions of a user; tokens stay."""
    return SessionsEnded(ended=_registry(shared, asker).revoke_sessions(name))


@router.get("/groups", response_model=Groups)
def list_user_groups(shared: SharedHere, asker: Setting) -> Response:
    """Every group of users, also those that only an identity provider names."""
    return as_json({"groups": [group.as_json() for group in _registry(shared, asker).groups()]})


@router.patch("/groups/{name}")
def set_user_group(name: str, change: GroupChange, shared: SharedHere, asker: ChangingGroup) -> GroupShown:
    """Make a group of users, or change it."""
    registry = _registry(shared, asker)
    name = registry.set_group(
        name, display=change.display, given=change.roles(), adds=change.add, removes=change.remove
    )
    return GroupShown(**next(group.as_json() for group in registry.groups() if group.name == name))


@router.delete("/groups/{name}", status_code=204, responses={409: {"description": "Nobody would be an admin."}})
def delete_user_group(name: str, shared: SharedHere, asker: DeletingGroup) -> None:
    """Delete a group with its roles; its members stay users."""
    _registry(shared, asker).delete_group(name)


@router.get("/projects", response_model=Projects)
def list_projects(shared: SharedHere, asker: Annotated[Asker, allowed(Act.SET_PROJECT)]) -> Response:
    """The projects of which something is set, and in which who asks is an admin."""
    found = [
        project.as_json()
        for project in _registry(shared, asker).projects()
        if may(asker.person, Act.SET_PROJECT, project=project.name)
    ]
    return as_json({"projects": found})


@router.patch("/projects/{name:path}")
def set_project(name: str, change: ProjectChange, shared: SharedHere, asker: ChangingProject) -> ProjectShown:
    """Make a project private or public, and give roles in it."""
    _check_project(asker, name)
    registry = _registry(shared, asker)
    registry.set_project(
        name, is_private=change.private, to_users=_roles(change.users), to_groups=_roles(change.groups)
    )
    return ProjectShown(**next(project.as_json() for project in registry.projects() if project.name == name))


@router.delete("/projects/{name:path}", status_code=204)
def delete_project(name: str, shared: SharedHere, asker: DeletingProject) -> None:
    """Forget what is set of a project, roles included; its runs stay, and are private no more."""
    _check_project(asker, name)
    _registry(shared, asker).delete_project(name)


@router.get("/tokens", response_model=Tokens)
def list_tokens(
    shared: SharedHere,
    asker: Own,
    user: Annotated[str | None, Query(description="Whose tokens, for admins; * for everybody's.")] = None,
) -> Response:
    """The tokens of who asks, or of another user."""
    found = _registry(shared, asker).tokens(_whose(asker, user))
    return as_json({"tokens": [token.as_json() for token in found]})


@router.post("/tokens", status_code=201, responses={404: {"description": "There is no such user."}})
def create_token(token: NewToken, shared: SharedHere, asker: MakingToken) -> TokenMade:
    """Make a token. Its text is in this answer, and nobody can read it again."""
    user = token.user or asker.person.name
    asker.about(f"{user}: {token.name}")
    asker.check(Act.OWN_TOKENS, owner=user)
    role = Role.parse(token.role)
    if not may(asker.person, Act.OWN_TOKENS):
        if asker.person.how == "token":
            # A stolen token would outlive its end by others.
            raise NotAllowedError("a token makes no tokens; log in with a browser and open /token, or ask an admin")
        if asker.person.highest is not Role.NONE:
            role = min(role, asker.person.highest)
    lasts_s = None if token.expires == "never" else parse_duration(token.expires, what="expires")
    text, made = _registry(shared, asker).create_token(user, token.name, role=role, lasts_s=lasts_s)
    return TokenMade(token=text, **made.as_json())


@router.delete("/tokens/{token_id}", status_code=204)
def revoke_token(token_id: str, shared: SharedHere, asker: RevokingToken) -> None:
    """Revoke a token of who asks, or for an admin anybody's. A token that is not an admin's revokes itself only."""
    registry = _registry(shared, asker)
    if may(asker.person, Act.OWN_TOKENS):
        registry.revoke_token(token_id)
        return
    name = asker.person.name
    if asker.person.how == "token":
        # Who has stolen one token must not shut out its user's programs.
        ids = {token.name: token.id for token in registry.tokens(name)}
        if token_id in ids.values() and token_id != ids.get(asker.person.token):
            raise NotAllowedError("a token revokes itself only; open /account in a browser, or ask an admin")
    registry.revoke_token(token_id, user=name)


@router.post(
    "/password",
    status_code=204,
    responses={
        409: {"description": "The users file keeps it."},
        429: {"description": "Too many logins from this address have failed; Retry-After says when to try again."},
    },
)
async def change_password(
    change: NewPassword,
    request: Request,
    response: Response,
    shared: SharedHere,
    asker: Annotated[Asker, allowed(Act.SEE_SELF)],
) -> None:
    """Change the own password. All sessions end; the answer sets the cookie of a new one."""
    name = asker.person.name
    # As guarded as a login: a stolen session must not be worth a password.
    await asyncio.sleep(shared.directory.throttle.wait_s(name, asker.address))
    agent = request.headers.get("user-agent", "")

    def change_it() -> str:
        shared.directory.login(name, change.old, address=asker.address, agent=agent)
        _registry(shared, asker).set_user(name, password=change.new)
        return shared.directory.login(name, change.new, address=asker.address, agent=agent)[1]

    set_cookie(request, response, await run_in_threadpool(change_it), max_age_s=int(SESSION_S))


@router.get("/sessions", response_model=Sessions)
def list_sessions(
    shared: SharedHere,
    asker: Own,
    user: Annotated[str | None, Query(description="Whose sessions, for admins; * for everybody's.")] = None,
) -> Response:
    """The browsers in which who asks, or another user, is logged in."""
    found = _registry(shared, asker).sessions(_whose(asker, user))
    return as_json({"sessions": [session.as_json() for session in found]})


@router.delete("/sessions/{session_id}", status_code=204)
def revoke_session(session_id: str, shared: SharedHere, asker: EndingSession) -> None:
    """End a session of who asks, or for an admin anybody's. A token that is not an admin's ends none."""
    registry = _registry(shared, asker)
    mine = None if may(asker.person, Act.OWN_TOKENS) else asker.person.name
    found = next((one for one in registry.sessions(mine) if one.id == session_id), None)
    if found is None:
        raise NotFoundError("there is no such session")
    if mine is not None and asker.person.how == "token":
        raise NotAllowedError("a token ends no sessions; open /account in a browser, or ask an admin")
    registry.revoke_sessions(found.user, session=session_id)


@router.get("/allowances", response_model=Allowances)
def list_allowances(shared: SharedHere, asker: Annotated[Asker, allowed(Act.SEE_SYSTEM)]) -> Response:
    """The allowances for which the runs of who asks count; for admins all."""
    return as_json({"allowances": seen_allowances(shared, asker.person)})


def seen_allowances(shared: Shared, person: Person) -> list[dict[str, Any]]:
    """The allowances that a person sees, by name."""
    sight = visible(person)
    mine = {f"user:{person.name}"}
    if sight.is_everything:
        # The runs of a group may be of projects that some of its members do not see.
        mine |= {f"group:{group}" for group in person.groups}

    def is_seen(name: str) -> bool:
        kind, _, of = name.partition(":")
        return may(person, Act.SET_PEOPLE) or name in mine or (kind == "project" and sight.sees(of))

    return [one.as_json() for one in shared.connection.allowances() if is_seen(one.name)]


@router.put("/allowances/{name:path}")
def set_allowance(
    name: str,
    limits: Limits,
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.SET_PEOPLE, what="set", kind="allowance")],
) -> AllowanceShown:
    """Set what the runs of `user:NAME`, `group:NAME` or `project:NAME` may have at once."""
    if limits.waiting is None and limits.running is None and limits.gpus is None:
        raise InputError("an allowance has at least one of waiting, running and gpus")
    transport = shared.transport(asker.person.name)
    transport.allow(name, waiting=limits.waiting, running=limits.running, gpus=limits.gpus)
    return AllowanceShown(**next(one.as_json() for one in transport.allowances() if one.name == name))


@router.delete("/allowances/{name:path}", status_code=204)
def delete_allowance(
    name: str,
    shared: SharedHere,
    asker: Annotated[Asker, acting(Act.SET_PEOPLE, what="delete", kind="allowance")],
) -> None:
    """Remove an allowance; runs that waited for it go on."""
    transport = shared.transport(asker.person.name)
    if not any(one.name == name for one in transport.allowances()):
        raise NotFoundError("there is no such allowance")
    transport.allow(name, waiting=None, running=None, gpus=None)


def _registry(shared: Shared, asker: Asker) -> Registry:
    """The people, changed in the name of who asks; it writes the audit in the same transaction."""
    return Registry(shared.database, actor=asker.person.name, address=asker.address, changed=shared.directory.changed)


def _user(registry: Registry, name: str) -> UserShown:
    folded = name.strip().lower()
    return UserShown(**next(user.as_json() for user in registry.users() if user.name == folded))


def _roles(given: Mapping[str, str]) -> dict[str, Role]:
    return {name: Role.parse(label) for name, label in given.items()}


def _check_project(asker: Asker, name: str) -> None:
    if not visible(asker.person).sees(name):
        raise NotFoundError("there is no such project")
    asker.check(Act.SET_PROJECT, project=name)


def _whose(asker: Asker, user: str | None) -> str | None:
    """The user whose logins are asked for; None for everybody's."""
    wanted: Any = user or asker.person.name
    asker.check(Act.OWN_TOKENS, owner="" if wanted == "*" else wanted)
    return None if wanted == "*" else wanted
