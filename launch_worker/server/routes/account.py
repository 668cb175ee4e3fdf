"""Lets people in and out, and says who is logged in."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from launch_worker.errors import NotAllowedError
from launch_worker.people.directory import SESSION_S
from launch_worker.people.names import folded_name
from launch_worker.people.roles import Act, Person
from launch_worker.server.asker import Asker, address_of, allowed, cookie_name, for_everybody, set_cookie
from launch_worker.server.shared import Shared, SharedHere

router = APIRouter(tags=["account"])


class Account(BaseModel):
    """A person as the server knows them."""

    name: str = Field(examples=["ada"])
    display: str = Field(description="Name for people; may be empty.", examples=["Ada Lovelace"])
    role: str = Field(
        description="Role for the whole system: none, viewer, member, operator, admin.", examples=["member"]
    )
    projects: dict[str, str] = Field(description="Roles in single projects.", examples=[{"vision/big": "operator"}])
    groups: list[str] = Field(examples=[["vision"]])
    how: str = Field(description="Kind of the proof: token, session, proxy, loopback.", examples=["token"])
    token: str | None = Field(description="Name of the token, where there is one.", examples=["laptop"])


class WaysIn(BaseModel):
    """The ways in which people log in here."""

    passwords: bool = Field(description="Whether by name and password.")
    provider: str | None = Field(
        description="The identity provider to which `/login/oidc` leads a browser; null for none.",
        examples=["login.example.org"],
    )


class Login(BaseModel):
    """What a person knows."""

    name: str = Field(max_length=255, examples=["ada"])
    password: str = Field(max_length=1024, examples=["correct horse battery"])


class FirstAdmin(Login):
    """The first admin, by the link that the server's log shows once."""

    secret: str = Field(max_length=255)


@router.get("/login", dependencies=[for_everybody])
def ways_in(shared: SharedHere) -> WaysIn:
    """How people log in here. Whoever does so makes tokens for commands at the page `/token`."""
    return WaysIn(
        passwords=shared.settings.takes_passwords,
        provider=shared.provider.name if shared.provider is not None else None,
    )


@router.post(
    "/login",
    dependencies=[for_everybody],
    responses={
        401: {"description": "Name or password is wrong."},
        403: {"description": "This server takes no passwords."},
        429: {"description": "Too many logins from this address have failed; Retry-After says when to try again."},
    },
)
async def login(who: Login, request: Request, response: Response, shared: SharedHere) -> Account:
    """Log in by name and password: the answer sets a cookie, which later requests bring.

    A program makes itself a token with it (`POST /api/v1/tokens`) and logs out.
    """
    person, secret = await start_session(request, shared, who.name, who.password)
    set_cookie(request, response, secret, max_age_s=int(SESSION_S))
    return _account(person)


@router.post(
    "/first-admin",
    dependencies=[for_everybody],
    responses={401: {"description": "The link is used up."}, 403: {"description": "This server takes no passwords."}},
)
def make_first_admin(who: FirstAdmin, request: Request, response: Response, shared: SharedHere) -> Account:
    """Make the first admin, and log them in: once, and only where nobody is an admin yet."""
    check_passwords(shared)
    person, secret = shared.directory.make_first_admin(
        who.secret, who.name, who.password, address=address_of(request), agent=request.headers.get("user-agent", "")
    )
    set_cookie(request, response, secret, max_age_s=int(SESSION_S))
    return _account(person)


@router.post("/logout", status_code=204)
def logout(
    request: Request, response: Response, shared: SharedHere, asker: Annotated[Asker, allowed(Act.SEE_SELF)]
) -> None:
    """End the session of this browser; a token goes on."""
    end_session(request, response, shared, asker.person)


def check_passwords(shared: Shared) -> None:
    """Raises NotAllowedError where people log in by other ways only."""
    if not shared.settings.takes_passwords:
        raise NotAllowedError("this server takes no passwords; open its page, and for commands make a token at /token")


async def start_session(request: Request, shared: Shared, name: str, password: str) -> tuple[Person, str]:
    """A new session and its secret. Who guesses waits, and is refused after too many failures. Raises LoginError."""
    check_passwords(shared)
    address = address_of(request)
    await asyncio.sleep(shared.directory.throttle.wait_s(folded_name(name), address))
    agent = request.headers.get("user-agent", "")
    return await run_in_threadpool(shared.directory.login, name, password, address=address, agent=agent)


def end_session(request: Request, response: Response, shared: Shared, person: Person) -> None:
    """End the session of a browser, wherever its cookie was copied to."""
    if person.how == "session":
        shared.directory.logout(request.cookies.get(cookie_name(request), ""))
    set_cookie(request, response, "", max_age_s=0)


@router.get("/whoami")
def whoami(asker: Annotated[Asker, allowed(Act.SEE_SELF)]) -> Account:
    """Who is logged in, and what they may do."""
    return _account(asker.person)


def _account(person: Person) -> Account:
    return Account(
        name=person.name,
        display=person.display,
        role=person.role.label,
        projects={project: role.label for project, role in sorted(person.projects.items())},
        groups=sorted(person.groups),
        how=person.how,
        token=person.token or None,
    )
