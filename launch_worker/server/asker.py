"""Finds out who asks, and whether that person may do what a route does: each route declares that once."""

from __future__ import annotations

import getpass
import hmac
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from launch_worker.errors import LaunchError, LoginError, NotAllowedError
from launch_worker.people.claims import claims_of_proxy
from launch_worker.people.roles import Act, Person, Role, Scope, may, refusal
from launch_worker.server import audit
from launch_worker.server.fence import PEER
from launch_worker.server.shared import Shared, shared_of

#: Seconds after which it is looked at again who follows a stream. A change of people by this process counts at once.
_ASK_AGAIN_S = 15.0


@dataclass(frozen=True)
class Asker:
    """A person whose login was proven, and where the request came from."""

    person: Person
    address: str
    #: The line of the audit, for a route that does something.
    act: audit.Act | None = None

    def begin(self, target: str = "", **detail: Any) -> None:
        """Say in the audit to what it is done, for a route that declares `is_named_late`: call it before the act."""
        if self.act is not None:
            self.act.begin(target, **detail)

    def about(self, target: str) -> None:
        """Say of what a refusal would tell in the audit, where the path does not say that."""
        if self.act is not None:
            self.act.about(target)

    def fail(self, why: str) -> None:
        """Say in the audit how it ended, for an error in an answer that has begun."""
        if self.act is not None:
            self.act.fail(why)

    def check(self, act: Act, *, project: str = "", owner: str = "") -> None:
        """Raises NotAllowedError when the person may not do this to a thing of this project and owner."""
        if not may(self.person, act, project=project, owner=owner):
            raise NotAllowedError(refusal(self.person, act, project=project))


class Allowed:
    """The declaration of a route: what it does, and so who may call it. FastAPI calls it before the route."""

    def __init__(self, act: Act | None) -> None:
        self.act = act

    def __call__(self, request: Request) -> Asker | None:
        return self._check(request, asker_of(request)) if self.act is not None else None

    def _check(self, request: Request, asker: Asker) -> Asker:
        assert self.act is not None
        rule = self.act.rule
        if rule.scope is Scope.PROJECT or rule.own is not None:
            # The route knows the project and the owner, and calls `check` with them.
            if asker.person.highest < self.act.least:
                raise NotAllowedError(refusal(asker.person, self.act))
        else:
            asker.check(self.act)
        return asker


class Acting(Allowed):
    """The declaration of a route that changes something: the audit has it before it is done, and then how it ended."""

    def __init__(self, act: Act, what: str, kind: str, *, is_named_late: bool) -> None:
        super().__init__(act)
        self._what = what
        self._kind = kind
        self._is_named_late = is_named_late

    def __call__(self, request: Request) -> Iterator[Asker]:  # type: ignore[override]
        asker = asker_of(request)
        audited = audit.Act(
            shared_of(request).audit,
            actor=asker.person.name,
            address=asker.address,
            what=self._what,
            kind=self._kind,
            target=next(iter(request.path_params.values()), ""),
        )
        try:
            self._check(request, asker)
        except LaunchError as error:
            audited.end(str(error))
            raise
        if not self._is_named_late:
            audited.begin()
        try:
            yield replace(asker, act=audited)
        except BaseException as error:
            audited.end(str(error) if isinstance(error, LaunchError) else "failed")
            raise
        audited.end()


class AskedAgain:
    """Finds out anew who follows a stream: a login may end, and a project become private, while it goes on."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._directory = shared_of(request).directory
        self._at, self._changed_at = time.monotonic(), 0.0

    async def asker(self) -> Asker | None:
        """Who follows, where that is to be looked at again; else None. Raises LoginError for a login that ended."""
        now, changed_at = time.monotonic(), self._directory.changed_at
        if now - self._at < _ASK_AGAIN_S and changed_at == self._changed_at:
            return None
        self._at, self._changed_at = now, changed_at
        return await run_in_threadpool(asker_of, self._request)


def allowed(act: Act) -> Any:
    """A parameter of a route, which gets the `Asker`: `asker: Annotated[Asker, allowed(Act.SEE_RUNS)]`."""
    return Depends(Allowed(act))


def acting(act: Act, *, what: str, kind: str, is_named_late: bool = False) -> Any:
    """The same for a route that does something to a thing, which its path names.

    It is the line of the audit: `acting(Act.ACT_ON_RUN, what="cancel", kind="run")`. Where the body names the thing
    (`is_named_late`), the route calls `asker.begin`; a `Served` does for what it submits.
    """
    return Depends(Acting(act, what, kind, is_named_late=is_named_late))


#: The declaration of a route that anybody may call, without a login: `dependencies=[for_everybody]`.
for_everybody = Depends(Allowed(None))


def asker_of(request: Request) -> Asker:
    """Who asks. Raises LoginError, without a word on what of the login was wrong."""
    shared, address = shared_of(request), address_of(request)
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind:
        person = _by_token(shared, token.strip(), address) if kind.lower() == "bearer" else None
    else:
        claims = claims_of_proxy(request.headers.items(), peer_of(request), shared.proxy_rules)
        person = shared.directory.by_claims(claims) if claims else None
        person = person or _by_session(shared, request.cookies.get(cookie_name(request), ""), address)
    if person is None:
        raise LoginError(
            "the login is missing, wrong or expired; log in with: launch-worker login URL, or set LAUNCH_API_TOKEN"
        )
    return Asker(person, address)


def address_of(request: Request) -> str:
    """The address of who asks; behind a trusted proxy the one that it says."""
    return request.client.host if request.client else ""


def peer_of(request: Request) -> str:
    """The address of the other end of the connection."""
    peer: str = request.scope[PEER]
    return peer


def cookie_name(request: Request, kind: str = "") -> str:
    """The name of the cookie of a kind, '' for the session's.

    Browsers keep a `__Host-` cookie from being set by others, and take it over https only. Cookies of one machine are
    the same for all its ports, so that the name without https has the port.
    """
    if request.url.scheme == "https":
        return f"__Host-launch_worker{kind}"
    return f"launch_worker{kind}_{shared_of(request).address.port}"


def set_cookie(request: Request, response: Any, value: str, *, max_age_s: int, kind: str = "") -> None:
    """Have the browser keep a cookie of this kind, '' for a session; for no time, forget it."""
    response.set_cookie(
        cookie_name(request, kind),
        value,
        max_age=max_age_s,
        path="/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="lax",
    )


def is_loopback_key(shared: Shared, text: str) -> bool:
    return bool(shared.loopback_key) and hmac.compare_digest(shared.loopback_key.encode(), text.encode())


def _by_token(shared: Shared, text: str, address: str) -> Person | None:
    return _this_user() if is_loopback_key(shared, text) else shared.directory.by_token(text, address)


def _by_session(shared: Shared, text: str, address: str) -> Person | None:
    return _this_user() if is_loopback_key(shared, text) else shared.directory.by_session(text, address)


def _this_user() -> Person:
    """Who has the key of loopback: the user who started the server, and who could do all of it without."""
    return Person(name=getpass.getuser(), role=Role.ADMIN, how="loopback")


def declarations(router: APIRouter) -> Iterator[tuple[APIRoute, Act | None]]:
    """Each route with what it declares. Raises TypeError for a route that declares nothing, or twice."""
    for route in router.routes:
        if not isinstance(route, APIRoute):
            continue
        found = list(_declared(route.dependant))
        if len(found) != 1:
            raise TypeError(
                f"route {route.path} must declare once who may call it, by allowed(Act.…), and does {len(found)} times"
            )
        yield route, found[0].act


def _declared(dependant: Dependant) -> Iterator[Allowed]:
    if isinstance(dependant.call, Allowed):
        yield dependant.call
    for inner in dependant.dependencies:
        yield from _declared(inner)
